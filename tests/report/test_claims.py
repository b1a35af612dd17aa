"""The ledger decided: one verdict a claim, in their order, with everything that led to it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest

from mneme.core.config import build, describe
from mneme.report.claims import decide
from mneme.report.claims_config import ClaimConfig, Phase
from mneme.report.summary import validate
from mneme.rooms import HEADLINES
from mneme.stats.multiplicity import holm
from mneme.stats.rows import Interval
from mneme.stats.verdict import equivalence_p, interval_p, needed_n

KEYS = {
    *("rows", "room", "source", "statement", "published", "note", "verdict", "detail", "reason"),
    *("p", "p_holm", "needed_n", "delta", "direction", "unit", "effects", "positives", "nulls"),
    *("place", "original", "original_reason", "original_address"),
}
NUMBERS = {
    *("address", "value", "low", "high", "n", "unit", "seeds", "seed_low", "seed_high"),
    *("reference", "direction", "delta", "reason", "p"),
}


def effect(metric="lag", run="ours", phase="hysteresis", reference=0.0, direction="above", delta=1):
    return {
        "phase": phase,
        "run": run,
        "metric": metric,
        "reference": reference,
        "direction": direction,
        "delta": delta,
    }


def claim(*effects, **further):
    mapping = {
        "room": "routing",
        "source": 1,
        "statement": "It remembers",
        "published": "9 tokens",
        "effects": list(effects),
        "positives": [],
        "nulls": [],
        "original": None,
        "untestable": None,
        "note": "",
        **further,
    }
    return build(ClaimConfig, mapping, where="claims.it")


def row(metric, value, low=None, high=None, n=25, **further):
    frame = {"unit": "tokens", "seed": None, "control_of": None, "reason": None}
    return {"metric": metric, "value": value, "low": low, "high": high, "n": n, **frame, **further}


OURS = [
    row("lag", 3.0, 2.0, 4.0),
    row("lag", 2.5, seed=0),
    row("lag", 3.5, seed=1),
    row("small", 0.5, 0.2, 0.8),
    row("wide", 1.0, -8.0, 10.0),
    row("wider", 1.0, -80.0, 100.0),
    row("close", 3.0, 1.01, 4.99),
    row("bare", 3.0),
    row("none", None, reason="nobody switched"),
    row("accuracy", 0.98, 0.97, 0.99, unit="fraction"),
]
PUBLISHED_KEYS = {
    "hysteresis": {"test_aba": {"switch_lag_BA": 9, "switch_lag_AB": None}},
    "fatigue": {"tests": [{"tail": 2.5}, {"tail": 5.5}]},
}


@pytest.fixture
def headlines():
    runs = {
        "ours": {"rows": OURS},
        "token": {"rows": [row("lag", 0.1, -0.2, 0.4), row("bare", 0.9)]},
        "oracle": {
            "rows": [row("lag", 9.0, 8.0, 10.0), row("bare", 1.1), row("odd", 0.5, 2.0, 4.0)]
        },
        "original": {
            "rows": [row("lag", 7.5)],
            "published_keys": PUBLISHED_KEYS,
            "never": ["fatigue.tests.0.tail"],
        },
    }
    return {"hysteresis": {"phase": "hysteresis", "runs": runs}}


def one(config, headlines):
    return decide({"it": config}, headlines)["it"]


# Effects


@pytest.mark.parametrize(
    ("given", "verdict", "detail"),
    [
        (effect(), "supported", None),
        (effect("small"), "refuted", "real but smaller than matters"),
        (effect(direction="below"), "refuted", "opposite in sign"),
        (effect("small", direction="none"), "supported", None),
        (effect(direction="none"), "refuted", "an effect that matters"),
        (effect("wide"), "inconclusive", "power .8 needs n = 4294"),
        (effect("bare"), "inconclusive", None),
        (effect("accuracy", reference=1.0, direction="none", delta=0.05), "supported", None),
        (effect("accuracy", reference=1.0, direction="none", delta=0.02), "inconclusive", ...),
        (effect("accuracy", reference=0.5, delta=0.4), "supported", None),
    ],
)
def test_verdicts_of_one_effect(headlines, given, verdict, detail):
    block = one(claim(given), headlines)
    assert block["verdict"] == block["effects"][0]["verdict"] == verdict
    assert detail is ... or block["detail"] == detail


def test_every_number_of_a_claim(headlines):
    block = one(claim(effect(reference=0.5), original=original("lag")), headlines)
    interval = Interval(2.5, 1.5, 3.5)
    p = pytest.approx(interval_p(interval, 25, against=1.0))
    assert {key: block[key] for key in KEYS - {"rows", "effects"}} == {
        "place": 0,
        "room": "routing",
        "source": 1,
        "statement": "It remembers",
        "published": "9 tokens",
        "note": "",
        "verdict": "supported",
        "detail": None,
        "reason": None,
        "p": p,
        "p_holm": p,
        "needed_n": None,
        "delta": 1.0,
        "direction": "above",
        "unit": "tokens",
        "positives": [],
        "nulls": [],
        "original": 7.5,
        "original_reason": None,
        "original_address": "hysteresis original lag",
    }
    shifted = {"value": 2.5, "low": 1.5, "high": 3.5, "n": 25, "unit": "tokens", "reason": None}
    frame = {"metric": "hysteresis ours lag", "seed": None, "control_of": None}
    assert block["rows"] == [{**shifted, **frame}]
    assert block["effects"] == [
        {
            "address": "hysteresis ours lag",
            **shifted,
            "seeds": 2,
            "seed_low": 2.0,
            "seed_high": 3.0,
            "reference": 0.5,
            "direction": "above",
            "delta": 1.0,
            "p": p,
            "verdict": "supported",
            "detail": None,
        }
    ]


def test_all_effects_must_hold_and_p_is_the_largest(headlines):
    both = one(claim(effect(), effect("accuracy", delta=0.9)), headlines)
    assert both["verdict"] == "supported"
    assert both["p"] == max(e["p"] for e in both["effects"]) > 0
    assert (both["unit"], both["delta"]) == ("tokens", 1.0)
    refuted = one(claim(effect("wide"), effect(), effect("small")), headlines)
    assert refuted["verdict"] == "refuted"
    assert refuted["detail"] == "real but smaller than matters (ours small)"
    assert refuted["needed_n"] is None


def test_of_open_effects_the_widest_says_how_many_texts_it_takes(headlines):
    block = one(claim(effect("wide"), effect("wider"), effect()), headlines)
    wider = needed_n(Interval(1.0, -80.0, 100.0), 25, direction="above", delta=1.0)
    assert (block["verdict"], block["needed_n"]) == ("inconclusive", wider)
    assert block["detail"] == f"power .8 needs n = {wider} (ours wider)"


def test_an_effect_without_an_interval_is_inconclusive_with_the_reason(headlines):
    block = one(claim(effect("bare")), headlines)
    assert block["reason"] == block["effects"][0]["reason"] == "the row has no interval"
    assert (block["p"], block["p_holm"], block["needed_n"]) == (None, None, None)
    both = one(claim(effect(), effect("bare")), headlines)
    assert (both["verdict"], both["p"]) == ("inconclusive", None)
    assert both["reason"] == "the row has no interval (ours bare)"


def test_absence_has_the_p_of_two_one_sided_tests(headlines):
    block = one(claim(effect("small", direction="none")), headlines)
    assert block["p"] == equivalence_p(Interval(0.5, 0.2, 0.8), 25, delta=1.0)


def test_one_row_against_two_references_makes_two_rows(headlines):
    band = claim(
        effect("accuracy", reference=0.9, delta=0.05),
        effect("accuracy", reference=1.0, delta=0.005, direction="below"),
    )
    block = one(band, headlines)
    assert block["verdict"] == "supported"
    assert [r["metric"] for r in block["rows"]] == [
        "hysteresis ours accuracy minus 0.9",
        "hysteresis ours accuracy minus 1",
    ]


# Holm within the room


def test_holm_counts_the_claims_of_the_room_only(headlines):
    claims = {
        "a": claim(effect("close")),
        "b": claim(effect("wide")),
        "c": claim(effect()),
        "elsewhere": claim(effect("close"), room="zeta"),
        "untestable": claim(effect(), untestable="no memory there"),
        "absent": claim(effect("gone")),
    }
    blocks = decide(claims, headlines)
    expected = holm([blocks[name]["p"] for name in ("a", "b", "c")])
    assert [blocks[name]["p_holm"] for name in ("a", "b", "c")] == pytest.approx(expected)
    assert blocks["elsewhere"]["p_holm"] == blocks["elsewhere"]["p"] == blocks["a"]["p"]
    assert blocks["untestable"]["p"] is blocks["absent"]["p_holm"] is None


def test_support_is_taken_back_where_the_adjusted_p_is_too_large(headlines):
    claims = {f"a{i}": claim(effect("close")) for i in range(12)}
    alone = decide({"a0": claims["a0"]}, headlines)["a0"]
    among = decide(claims, headlines)["a0"]
    assert (alone["verdict"], among["verdict"]) == ("supported", "inconclusive")
    assert among["detail"] == "not after Holm's adjustment"
    assert among["p"] == alone["p"] < 0.05 <= among["p_holm"]
    assert among["effects"][0]["verdict"] == "supported"
    assert among["needed_n"] is not None


def test_an_invalid_measurement_still_counts_as_a_test(headlines):
    invalid = claim(effect("close"), nulls=[effect(run="oracle")])
    blocks = decide({"a": claim(effect("close")), "b": invalid}, headlines)
    assert blocks["a"]["p_holm"] == 2 * blocks["a"]["p"]


# Controls


@pytest.mark.parametrize(
    ("positives", "nulls", "told"),
    [
        ([effect(run="oracle")], [effect(run="token")], None),
        ([effect("bare", run="oracle")], [effect("bare", run="token")], None),
        ([effect("odd", run="oracle")], [], "hysteresis oracle odd is [0.5, 4], must lie above 1"),
        ([effect(run="token")], [], "hysteresis token lag is [-0.2, 0.4], must lie above 1"),
        ([effect(run="oracle", delta=8)], [], "hysteresis oracle lag is [8, 10], must lie above 8"),
        ([effect("bare", run="token")], [], "hysteresis token bare is 0.9, must lie above 1"),
        ([effect(run="oracle", direction="below")], [], "[8, 10], must lie below -1"),
        ([], [effect(run="oracle")], "hysteresis oracle lag is [8, 10], must lie below 1"),
        ([], [effect(run="token", delta=0.4)], "[-0.2, 0.4], must lie below 0.4"),
        ([], [effect(run="token", delta=0.2, direction="below")], "must lie above -0.2"),
        ([], [effect(run="oracle", direction="below")], None),
        ([], [effect(run="token", delta=0.3, direction="none")], "must lie inside +-0.3"),
        ([], [effect(run="token", delta=0.5, direction="none")], None),
    ],
)
def test_controls_decide_whether_anything_was_measured(headlines, positives, nulls, told):
    block = one(claim(effect(), positives=positives, nulls=nulls), headlines)
    assert [c["ok"] for c in (*block["positives"], *block["nulls"])] == (
        [told is None] * (len(positives) + len(nulls))
    )
    if told is None:
        assert (block["verdict"], block["reason"]) == ("supported", None)
    else:
        missed = "positive control missed" if positives else "the null run reaches delta"
        assert (block["verdict"], block["detail"]) == ("invalid measurement", missed)
        assert told in block["reason"]
        assert block["p"] is not None


def test_rows_of_controls_name_the_claim(headlines):
    block = one(claim(effect(), positives=[effect(run="oracle")]), headlines)
    assert [(r["metric"], r["control_of"]) for r in block["rows"]] == [
        ("hysteresis ours lag", None),
        ("hysteresis oracle lag", "it"),
    ]


# Not testable, not measured


def test_an_untestable_claim_may_still_show_a_number(headlines):
    bare = one(claim(untestable="slots before the data cannot see it"), headlines)
    assert bare["verdict"] == "not testable as stated"
    assert bare["reason"] == "slots before the data cannot see it"
    assert (bare["rows"], bare["delta"], bare["direction"], bare["unit"]) == ([], None, None, None)
    shown = one(claim(effect(), effect("gone"), untestable="one backbone"), headlines)
    assert (shown["verdict"], shown["p"]) == ("not testable as stated", None)
    assert [r["value"] for r in shown["rows"]] == [3.0]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"effects": [effect(phase="mdn")]}, "there is no mdn.json"),
        ({"effects": [effect(run="ema")]}, "hysteresis.json has no run 'ema'"),
        ({"effects": [effect("gap")]}, "hysteresis.json: run 'ours' has no 'gap'"),
        ({"effects": [effect("none")]}, "hysteresis ours none: nobody switched"),
        ({"positives": [effect(run="ema")]}, "control: hysteresis.json has no run 'ema'"),
        ({"nulls": [effect("none")]}, "control: hysteresis ours none: nobody switched"),
        (
            {"effects": [effect(phase="mdn")], "nulls": [effect("other", phase="mdn")]},
            "there is no mdn.json",
        ),
        (
            {"effects": [effect("gap"), effect()], "nulls": [effect(run="ema")]},
            "hysteresis.json: run 'ours' has no 'gap'; control: hysteresis.json has no run 'ema'",
        ),
    ],
)
def test_what_this_size_does_not_hold_is_not_measured(headlines, given, reason):
    block = one(claim(**{"effects": [effect()], **given}), headlines)
    assert (block["verdict"], block["reason"], block["p"]) == ("not measured", reason, None)
    json.dumps(block, allow_nan=False)


def test_a_missing_effect_is_told_by_itself_too(headlines):
    block = one(claim(effect("gap"), effect(), nulls=[effect(run="ema")]), headlines)
    gap, lag = block["effects"]
    assert (gap["value"], gap["verdict"]) == (None, "not measured")
    assert gap["reason"] == "hysteresis.json: run 'ours' has no 'gap'"
    assert lag["verdict"] == "supported"
    assert block["nulls"][0]["ok"] is None
    assert len(block["rows"]) == 1
    assert block["unit"] is None


# The original


def original(metric, run="original", phase="hysteresis"):
    return {"phase": phase, "run": run, "metric": metric}


@pytest.mark.parametrize(
    ("address", "value", "reason"),
    [
        (original("lag"), 7.5, None),
        (original("none", run="ours"), None, "nobody switched"),
        (original("hysteresis.test_aba.switch_lag_BA"), 9.0, None),
        (original("fatigue.tests.1.tail"), 5.5, None),
        (
            original("hysteresis.test_aba.switch_lag_AB"),
            None,
            "hysteresis.test_aba.switch_lag_AB is undefined in that run",
        ),
        (original("fatigue.tests.0.tail"), None, "never: the source's protocol counts it as 0"),
        (original("fatigue.tests.2.tail"), None, "run 'original' has no 'fatigue.tests.2.tail'"),
        (original("fatigue.tests.x"), None, "run 'original' has no 'fatigue.tests.x'"),
        (original("gap", run="ours"), None, "hysteresis.json: run 'ours' has no 'gap'"),
        (original("gap", run="ema"), None, "hysteresis.json has no run 'ema'"),
        (original("gap", phase="mdn"), None, "there is no mdn.json"),
    ],
)
def test_the_originals_value_or_why_there_is_none(headlines, address, value, reason):
    block = one(claim(effect(), original=address), headlines)
    assert block["original"] == value
    assert (reason or "") in (block["original_reason"] or "")
    assert (block["original_reason"] is None) == (reason is None)


def test_an_original_that_is_a_block_is_a_mistake(headlines):
    config = claim(effect(), original=original("hysteresis.test_aba"))
    with pytest.raises(ValueError, match=r"claims\.it\.original\.metric must be the address"):
        one(config, headlines)


# The frame and the ledger's mistakes


def test_blocks_fit_the_headline_schema(headlines):
    claims = {
        "a": claim(effect(), positives=[effect(run="oracle")], original=original("lag")),
        "b": claim(effect("gone"), nulls=[effect("none")]),
        "c": claim(untestable="no"),
    }
    blocks = decide(claims, headlines)
    for block in blocks.values():
        assert set(block) == KEYS
        assert all(set(e) == {*NUMBERS, "verdict", "detail"} for e in block["effects"])
        assert all(set(c) == {*NUMBERS, "ok"} for c in (*block["positives"], *block["nulls"]))
    frame = {
        "phase": "claims",
        "code": "a" * 16,
        "config": {},
        "provenance": {"device": None, "versions": {"python": "3.11"}, "inputs": {}},
        "seconds": 0.1,
        "published": {},
    }
    validate(json.loads(json.dumps({**frame, "runs": blocks})), "headline", name="claims.json")


def test_phases_are_the_headline_files_of_the_summary():
    assert {*get_args(Phase)} == {*HEADLINES}


def test_every_key_of_the_ledger_is_explained():
    assert all(key.doc for key in describe(ClaimConfig))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"effects": []}, r"claims\.it\.effects must be a list of at least one effect"),
        ({"source": 6}, r"claims\.it\.source must be 1 to 5, got 6"),
        ({"room": "zetta"}, r"claims\.it\.room must be one of 'routing'"),
        ({"statement": " "}, r"claims\.it\.statement must be a text that is not empty"),
        ({"untestable": ""}, r"claims\.it\.untestable must be a text that is not empty"),
        ({"effects": [effect(delta=0)]}, r"claims\.it\.effects\[0\]\.delta must be above 0, got 0"),
        ({"effects": [effect(phase="mixr")]}, r"effects\[0\]\.phase must be one of 'env'"),
        ({"effects": [effect(run="")]}, r"effects\[0\]\.run must be a text that is not empty"),
        ({"nulls": [effect(direction="up")]}, r"nulls\[0\]\.direction must be one of 'above'"),
        ({"positives": [effect(run="a", direction="none")]}, r"positives\[0\]\.direction must be"),
        ({"effects": [effect(), effect(delta=2)]}, r"effects must be of different rows"),
        ({"nulls": [effect()]}, r"effects must be of different rows .* got 'hysteresis ours lag'"),
        ({"original": {"phase": "mdn", "run": "e0"}}, r"original\.metric is missing"),
        ({"verdict": "supported"}, r"claims\.it\.verdict is not a known key"),
    ],
)
def test_mistakes_in_the_ledger_name_key_rule_and_value(given, message):
    with pytest.raises(ValueError, match=message):
        claim(**{"effects": [effect()], **given})


def test_a_claim_id_is_a_runs_name(headlines):
    with pytest.raises(ValueError, match=r"claims must be named by .* got 'Return gap'"):
        decide({"Return gap": claim(effect())}, headlines)


def test_a_phase_that_is_no_headline_file_is_a_mistake(headlines):
    config = claim(effect())
    wrong = replace(config, effects=(replace(config.effects[0], phase="hysteresys"),))
    with pytest.raises(ValueError, match=r"claims\.it: phase must be .* got 'hysteresys'"):
        one(wrong, headlines)
