"""Headline functions on three domains: the pair is any two of the columns, a third looks on."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from planted import noisy_gate, protocol_of, runs_of, step_gate, trace_of

from mneme.core.artefacts import save_figure
from mneme.report.fatigue import fatigue_figure
from mneme.report.routing import hysteresis_figure
from mneme.report.training import adapters_figure, mixer_figure
from mneme.routing import original
from mneme.routing.adapters import adapter_runs
from mneme.routing.config import AdapterRunConfig, AdaptersConfig, OriginalConfig
from mneme.routing.fatigue import fatigue
from mneme.routing.hysteresis import hysteresis
from mneme.routing.mixed_report import mixed_report
from mneme.routing.published import PUBLISHED
from mneme.routing.sharing import chunk_works

PAIR, SEEDS, LAG = (2, 0), (0, 1), 7
DOMAINS = ("python", "chitchat", "shakespeare")
NAMES = ("shakespeare", "python")
PHASES = {"hysteresis": hysteresis, "fatigue": fatigue}
REST = 4e-4


def widened(trace, *, third=REST):
    """Columns B, third, A; the third domain takes a share of everything."""
    wide = {}
    for name, weights in trace.items():
        if not name.startswith("works."):
            a, b = weights[..., :1], weights[..., 1:]
            rest = np.full_like(a, third)
            weights = np.concatenate([b * (1 - rest), rest, a * (1 - rest)], axis=-1)
        wide[name] = weights
    return wide


def measure(phase, gate, runs=None, *, wide=True, **changes):
    protocol, runs = protocol_of(**changes), runs or runs_of()
    trace = trace_of(runs, protocol, gate(protocol), phase=phase)
    trace, pair = (widened(trace), PAIR) if wide else (trace, (0, 1))
    return PHASES[phase](trace, runs, protocol, pair=pair, seeds=SEEDS)


def value(block, metric, key="value"):
    (row,) = [r for r in block["rows"] if r["metric"] == metric and r["seed"] is None]
    return row[key]


def after_b(context, n):
    return LAG if context in ("real", "mixed", "repeated", "shuffled") else 0


def test_hysteresis_rows_of_three_domains():
    ours = measure("hysteresis", lambda protocol: step_gate(protocol, after_b, entry=2))["ours"]
    for metric, expected in {
        "switch_lag_BA": LAG,
        "switch_lag_AB": 2,
        "switch_lag_BA_minus_aa": LAG,
        "switch_lag_BA_minus_blocked": LAG,
        "switch_lag_BA_minus_bab": LAG,
        "switch_lag_mixA_minus_clean": 0,
        "switching_asymmetry_signed": LAG - 2,
        "return_gap_mean_difference": -LAG * 0.998 * (1 - REST) / 32,
        "return_gap_euclidean": LAG * 0.998 * (1 - REST) * math.sqrt(2) / 32,
        "mix_balance": 1.0,
    }.items():
        assert value(ours, metric) == pytest.approx(expected, abs=1e-6), metric
    w = np.array([0.999, 0.001]) * (1 - REST)
    entropy = -(w * np.log(w)).sum() - REST * math.log(REST)
    assert value(ours, "mix_entropy") == pytest.approx(entropy, abs=1e-6)
    assert ours["bands"]["mean"][130] == pytest.approx(0.001 * (1 - REST), abs=1e-5)
    json.dumps(ours, allow_nan=False)


def test_fatigue_rows_of_three_domains():
    def growing(context, n):
        return {16: 2, 32: 4, 64: 6, 128: 8}[n] if context == "real" else 0

    ours = measure(
        "fatigue",
        lambda protocol: step_gate(protocol, growing, entry=6),
        dwell_tokens=(16, 32, 64, 128),
    )["ours"]
    for n, lag in ((16, 2), (32, 4), (64, 6), (128, 8)):
        assert value(ours, f"switch_lag_minus_aa@{n}") == lag
        assert value(ours, f"deep_crystallization_ratio@{n}") == 1 - 6 / n
        assert value(ours, f"entry_lag@{n}") == 6
    assert value(ours, "switch_lag_minus_aa.per_doubling") == pytest.approx(2)
    assert value(ours, "deep_crystallization_ratio_excess.per_doubling") == 0


@pytest.mark.parametrize("phase", PHASES)
def test_a_third_domain_without_weight_changes_no_row(phase):
    def gate(protocol):
        return noisy_gate(protocol, seeds=2, texts=6)

    protocol, runs = protocol_of(), runs_of("ours", "aa", "bab", "blocked", "reset")
    trace = trace_of(runs, protocol, gate(protocol), phase=phase)
    two = PHASES[phase](trace, runs, protocol, pair=(0, 1), seeds=SEEDS)
    wide = widened(trace, third=0.0)
    three = PHASES[phase](wide, runs, protocol, pair=PAIR, seeds=SEEDS)
    for name, block in two.items():
        for row, other in zip(block["rows"], three[name]["rows"], strict=True):
            assert row["metric"] == other["metric"]
            for end in ("value", "low", "high"):
                expected = row[end] if row[end] is None else pytest.approx(row[end], abs=1e-6)
                assert other[end] == expected, row["metric"]


def test_weight_that_goes_to_the_third_domain_is_not_yet_a_return():
    """After B the third domain holds the weight for five tokens: that is a lag back into A."""
    protocol, runs = protocol_of(), runs_of("ours")
    trace = widened(trace_of(runs, protocol, step_gate(protocol, lambda *_: 0), phase="hysteresis"))
    real = trace["ours/real/64"].copy()
    real[:, :, 128:133] = (0.001, 0.998, 0.001)
    trace["ours/real/64"] = real
    ours = hysteresis(trace, runs, protocol, pair=PAIR, seeds=SEEDS)["ours"]
    assert value(ours, "switch_lag_BA") == value(ours, "switch_lag_BA_minus_aa") == 5
    assert value(ours, "return_gap_mean_difference") == pytest.approx(-5 * 0.9976 / 32, abs=1e-4)
    assert value(ours, "return_gap_cosine") == pytest.approx(5 / 32, abs=1e-3)


def test_figures_of_three_domains_are_drawn(tmp_path):
    def gate(protocol):
        return noisy_gate(protocol, seeds=2, texts=5)

    small = {"tuples": 5, "dwell_tokens": (16, 40, 64, 80), "resamples": 100}
    runs = measure("hysteresis", gate, **small)
    figure = hysteresis_figure(runs, NAMES)
    axis = next(a for a in figure.axes if a.get_title(loc="left").startswith("Where does"))
    drawn = next(line for line in axis.get_lines() if line.get_label().startswith("ours: real"))
    assert list(drawn.get_ydata()) == runs["ours"]["bands"]["mean"]
    save_figure(figure, svg=tmp_path / "h.svg", png=tmp_path / "h.png")
    figure = fatigue_figure(measure("fatigue", gate, **small), PUBLISHED["fatigue"], NAMES)
    save_figure(figure, svg=tmp_path / "f.svg", png=tmp_path / "f.png")
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("h.svg", "f.svg"))


# ---- run `original`

CONFIG = OriginalConfig(
    adapter_run="original",
    mixer="original",
    samples=50,
    tokens=32,
    prompts={"shakespeare": "x", "python": "y z"},
    mix_prompt="m",
    new_tokens=12,
    temperature=0.8,
    tail_tokens=10,
    area_tokens=20,
    dwell_tokens=(22, 50, 96),
    threshold=0.9,
)


def generations(third, pair):
    """One sequence of each kind, A at column pair[0], the third domain with a share of all."""
    kinds = [("aba", 20), ("amixba", 20), *(("dwell", n) for n in CONFIG.dwell_tokens)]
    found = []
    for kind, n in kinds:
        pieces = ((0.96, 20), (0.02, n), (0.6, 5), (0.97, 35))
        a = np.concatenate([np.full(tokens, w) for w, tokens in pieces])
        weights = np.zeros((len(a), 2 if third is None else 3))
        rest = third or 0.0
        weights[:, pair[0]], weights[:, pair[1]] = a * (1 - rest), (1 - a) * (1 - rest)
        if third is not None:
            weights[:, 3 - sum(pair)] = rest
        found.append(
            original.Generation(
                kind=kind,
                seed=0,
                prompt_tokens=(20, n, 20),
                weights=weights.tolist(),
                text="",
                seconds=0.5,
            )
        )
    return found


@pytest.mark.parametrize("part", ["hysteresis", "fatigue"])
def test_run_original_reads_the_pair_out_of_three_columns(part):
    def block(third, pair):
        content = [
            vars(s) | {"prompt_tokens": [*s.prompt_tokens]} for s in generations(third, pair)
        ]
        return original.original_block(content, pair, CONFIG, part=part)

    two, three, more = block(None, (0, 1)), block(0.0, PAIR), block(0.01, PAIR)
    for row, other in zip(two["rows"], three["rows"], strict=True):
        assert other["metric"] == row["metric"]
        assert other["value"] == pytest.approx(row["value"], abs=1e-9), row["metric"]
    named = {r["metric"]: r["value"] for r in more["rows"]}
    if part == "hysteresis":
        assert named["test_aba.switch_lag_BA"] == 5
        assert named["test_aba.switch_lag_AB"] == 0
        balance = "test_amixba.mix_balance"  # between the two of the pair, whatever the third has
        expected = {r["metric"]: r["value"] for r in two["rows"]}[balance]
        assert named[balance] == pytest.approx(expected)
    else:
        assert [named[f"tests[{i}].python_block_length"] for i in range(3)] == [22, 50, 96]
        assert named["tests[0].avg_python_weight"] == pytest.approx(0.98 * 0.99)
    json.dumps(more, allow_nan=False)


# ---- adapters and the mixed model

CHUNKS = 6


def chunk_losses(generator):
    def of(shift):
        return {d: list(3 + s + 0.1 * generator.normal(size=CHUNKS)) for d, s in shift.items()}

    table = {"base": of(dict.fromkeys(DOMAINS, 1.0))}
    for place, adapter in enumerate(DOMAINS):
        # An adapter knows its own domain best and forgets each earlier one by .3.
        shift = {d: 0.0 if i == place else 0.3 if i < place else 0.9 for i, d in enumerate(DOMAINS)}
        table[adapter] = of(shift)
    return table


def test_rows_and_figures_of_three_adapters(tmp_path):
    run = AdapterRunConfig(
        protect="none",
        samples=4,
        tokens=8,
        epochs=1,
        batch=2,
        learning_rate=1e-3,
        above_gate=True,
    )
    runs = {"none": run, "sleep": dataclasses.replace(run, protect="sleep")}
    config = AdaptersConfig(
        rank=2,
        alpha=4.0,
        sleep_weight=0.5,
        sleep_temperature=2.0,
        seeds=(0,),
        headline="sleep",
        runs=runs,
    )
    generator = np.random.default_rng(0)
    losses = {name: [chunk_losses(generator)] for name in runs}
    names = np.array([f"work {i}" for i in range(CHUNKS)])
    works = chunk_works({f"works.{d}.loss": names for d in DOMAINS}, DOMAINS, "loss")
    history = {"domains": {d: {"seconds": 1.0} for d in DOMAINS}}
    blocks = adapter_runs(
        losses,
        {name: [history] for name in runs},
        config,
        DOMAINS,
        works=works,
        resamples=100,
        original="source",
    )
    metrics = {r["metric"] for r in blocks["sleep"]["rows"]}
    assert {f"loss.{a}.{d}" for a in ("base", *DOMAINS) for d in DOMAINS} <= metrics
    earlier = {f"forgetting.{d}" for d in DOMAINS[:-1]}
    assert {m for m in metrics if m.startswith("forgetting") and "minus" not in m} == earlier
    for metric in earlier:
        assert value(blocks["none"], metric) == pytest.approx(0.3, abs=0.15)
    assert set(blocks["sleep"]["p_values"]) == {f"{metric}_minus_none" for metric in earlier}
    mixed = mixed_report(
        [losses["sleep"][0]["base"]],
        uniform=losses["sleep"][0]["python"],
        known=losses["sleep"][0],
        domains=DOMAINS,
        works=works,
        seeds=(0,),
        resamples=100,
    )
    assert value(mixed["mixed"], "held_out_loss.chitchat_minus_known") == pytest.approx(1, abs=0.2)
    save_figure(adapters_figure(blocks, DOMAINS), svg=tmp_path / "a.svg", png=tmp_path / "a.png")
    save_figure(mixer_figure(mixed, DOMAINS), svg=tmp_path / "m.svg", png=tmp_path / "m.png")
