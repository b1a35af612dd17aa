"""Made-up results of two rooms for the tests of the HTML report."""

from __future__ import annotations

import json

SVG = (
    '<?xml version="1.0"?>\n<!DOCTYPE svg>\n'
    '<svg xmlns="http://www.w3.org/2000/svg" width="720pt" height="360pt" viewBox="0 0 720 360">'
    '<rect width="720" height="360" style="fill: #ffffff"/>'
    '<text x="9" y="40">{word} &lt;</text></svg>'
)
CAPTIONS = {
    "hysteresis": "Run ``ours`` & *controls*.\n",
    "fatigue": "What <grows>.\n",
    "mdn_training": "Training.",
    "lattice": "Not drawn here.",
}


def row(metric, value, **further):
    frame = dict.fromkeys(("low", "high", "n", "seed", "control_of", "reason"))
    return {"metric": metric, "value": value, "unit": "tokens", **frame, **further}


def headline(phase, runs, published=None):
    return {
        "phase": phase,
        "code": "a" * 16,
        "config": {},
        "provenance": {"device": "cpu", "versions": {"python": "3.11.7"}, "inputs": {}},
        "seconds": 1.5,
        "runs": runs,
        "published": published or {},
    }


def effect(value, low, high, *, direction="above", delta=2.0, **further):
    return {
        "address": "hysteresis ours lag",
        "reference": 0.0,
        "value": value,
        "low": low,
        "high": high,
        "n": 24,
        "unit": "tokens",
        "direction": direction,
        "delta": delta,
        **further,
    }


def claim(verdict, *, room="routing", statement="It remembers.", effects=(), **further):
    first = effects[0] if effects else dict.fromkeys(("delta", "direction", "unit"))
    return {
        "place": 0,
        "rows": [],
        "room": room,
        "source": 1,
        "statement": statement,
        "published": "lag 9",
        "note": "",
        "verdict": verdict,
        "detail": None,
        "reason": None,
        "p": None,
        "p_holm": None,
        "needed_n": None,
        **{key: first[key] for key in ("delta", "direction", "unit")},
        "effects": list(effects),
        "positives": [],
        "nulls": [],
        "original": None,
        "original_reason": None,
        "original_address": None,
        **further,
    }


def claims():
    return {
        "lag": claim(
            "refuted",
            statement="Leaving <takes> longer & longer",
            effects=[effect(0.42, 0.11, 0.74, p=0.004, verdict="refuted")],
            positives=[effect(6.1, 5.4, 6.9, ok=True)],
            nulls=[effect(0.0, 0.0, 0.0, ok=True)],
            detail="real but smaller than matters",
            p=0.004,
            p_holm=0.0312,
            original=9.0,
            note="Run `original` reads <it> off the weights.",
        ),
        "gap": claim(
            "inconclusive",
            effects=[effect(0.5, -1.0, 3.0, verdict="inconclusive")] * 3,
            needed_n=312,
            original_reason="undefined: every share is 0",
        ),
        "size": claim("not testable as stated", reason=f"`compare` {'long_' * 20}"),
        "memory": claim(
            "not measured",
            room="zeta",
            effects=[effect(None, None, None, reason="no text switched", delta=1.0)],
            reason="no text switched",
        ),
        "absence": claim("supported", effects=[effect(0.1, -0.2, 0.4, direction="none")]),
        "broken": claim("invalid measurement", nulls=[effect(3.0, 2.5, 3.5, ok=False)]),
    }


def headlines():
    ours = [
        row("switch_lag_BA", 5.5, low=4.0, high=7.0, n=50),
        row("switch_lag_BA", 5.0, seed=0),
        row("return_gap_cosine", None, reason="one text only"),
        row("another", 1.0),
    ]
    keys = {"hysteresis": {"test_aba": {"switch_lag_AB": None, "switch_lag_BA": 4.0}}}
    published = {
        "mistral_7b_fast": {
            "test_aba.switch_lag_BA": 9,
            "test_aba.switch_lag_AB": None,
            "test_aba.switch_lag_AB_reason": "never left",
            "timing.phase5_hysteresis_sec": 10.4,
        },
        "gpt2": {"test_aba.return_gap_cosine_distance": 0.1909},
    }
    tests = [{"tail_area_32": 1.25, "switch_lag_BA": 0}, {"tail_area_32": 3.5, "switch_lag_BA": 2}]
    return {
        "model": headline("model", {"tiny": {"rows": [row("loss loss@text", 3.0)]}}),
        "hysteresis": headline(
            "hysteresis",
            {"ours": {"rows": ours}, "original": {"rows": [], "published_keys": keys}},
            published,
        ),
        "fatigue": headline(
            "fatigue",
            {"original": {"rows": [], "published_keys": {"fatigue": {"tests": tests}}}},
            {"mistral_7b_fast": {"tail_area_32": [2.846, 5.541]}},
        ),
        "claims": headline("claims", claims()),
    }


def valued(row):
    return {key: value for key, value in row.items() if key not in ("metric", "seed")}


def summary(files):
    """Return a summary as `summarise` makes it of these files, without its checks."""
    steps = [
        {
            "step": "hysteresis",
            "seconds": 62.0,
            "peak_memory_mb": 1234.5,
            "device": "cpu",
            "device_name": "a processor",
            "reason": None,
        },
        {
            "step": "routing_trace/hysteresis",
            **dict.fromkeys(("seconds", "peak_memory_mb", "device", "device_name")),
            "reason": "its record is missing",
        },
    ]
    cost = {**{k: v for k, v in steps[0].items() if k != "step"}, "reason": "1 of 2 left none"}
    frame = {"code": "a" * 16, "config_hash": "c" * 16}
    phases = {
        phase: {**frame, **cost, "steps": steps, "published": file["published"]}
        for phase, file in files.items()
    }
    values = {
        phase: {
            run: {r["metric"]: valued(r) for r in block["rows"] if r["seed"] is None}
            for run, block in file["runs"].items()
        }
        for phase, file in files.items()
    }
    content = {
        "phase": "summary",
        "code": "b" * 16,
        "model_name": "tiny",
        "torch_version": None,
        "backbone": {
            "source": "embedded",
            "name": "tiny",
            "revision": None,
            "init": "random",
            "dtype": "float32",
        },
        "versions": {"python": "3.11.7"},
        "device": "cpu",
        "device_name": "a processor",
        "config_hash": "c" * 16,
        "commit": {"commit": "f" * 40, "dirty": True, "reason": None},
        "seconds": 7530.0,
        "peak_memory_mb": 1234.5,
        "reason": None,
        "phases": {"assets": {**cost, "steps": steps}, **phases},
        "values": values,
        "claims": {},
        "timing": {"phase5_hysteresis_sec": 15.25},
        "published": {"suite_example": {"timing.total_sec": 256.8}},
    }
    return json.loads(json.dumps(content))


def figures():
    names = ("hysteresis", "fatigue", "mdn_training")
    return {name: SVG.replace("{word}", name) for name in names}
