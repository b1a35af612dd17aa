"""Hysteresis and run `original`: planted lags come back, memoryless gates show none."""

import json

import numpy as np
import pytest
from planted import PAIR, noisy_gate, protocol_of, runs_of, step_gate, trace_of

from mneme.routing import original
from mneme.routing.config import OriginalConfig
from mneme.routing.hysteresis import hysteresis

SEEDS = (0, 1)
LAG = 7


def measure(gate, runs=None, **changes):
    protocol, runs = protocol_of(**changes), runs or runs_of()
    trace = trace_of(runs, protocol, gate(protocol), phase="hysteresis")
    return hysteresis(trace, runs, protocol, pair=PAIR, seeds=SEEDS)


def after_b(context, n):
    """Lag `LAG` wherever B (or the mix) came before and can be attended to."""
    return LAG if context in ("real", "mixed", "repeated", "shuffled") else 0


def after_any(context, n):
    return LAG


@pytest.fixture(scope="module")
def planted():
    return measure(lambda protocol: step_gate(protocol, after_b, entry=2))


def row(block, metric, seed=None):
    (found,) = [r for r in block["rows"] if r["metric"] == metric and r["seed"] == seed]
    return found


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("switch_lag_BA", LAG),
        ("switch_lag_BA@0.5", LAG),
        ("switch_lag_BA@0.99", LAG),
        ("relax_time_0.99", LAG),
        ("switch_lag_BA_median", LAG),
        ("switch_lag_AB", 2),
        ("switching_asymmetry_signed", LAG - 2),
        ("switching_asymmetry_absolute", LAG - 2),
        ("switch_lag_mixA", LAG),
        ("switch_lag_BA_minus_aa", LAG),
        ("switch_lag_mixA_minus_aa", LAG),
        ("switch_lag_mixA_minus_clean", 0),
        ("return_gap_mixed_cosine_minus_clean", 0),
        ("switch_lag_BA_minus_blocked", LAG),
        ("switch_lag_BA_minus_reset", LAG),
        ("switch_lag_BA_minus_shuffled_b", 0),
        ("switch_lag_BA_minus_bab", LAG),
        ("return_gap_mean_difference", -LAG * 0.998 / 32),
        ("return_gap_mean_difference@whole", -LAG * 0.998 / 64),
        ("return_gap_euclidean", LAG * 0.998 * np.sqrt(2) / 32),
        ("return_gap_repeated_mean_difference", -LAG * 0.998 / 32),
        ("mix_balance", 1.0),
    ],
)
def test_a_planted_lag_is_read_off_with_an_interval_of_no_width(planted, metric, value):
    found = row(planted["ours"], metric)
    assert found["value"] == pytest.approx(value, abs=1e-6)
    if not metric.endswith("_median"):
        assert found["low"] == pytest.approx(value, abs=1e-6)
        assert found["high"] == pytest.approx(value, abs=1e-6)
        assert [row(planted["ours"], metric, s)["value"] for s in SEEDS] == pytest.approx(
            [value] * 2, abs=1e-6
        )


def test_a_planted_gap_exceeds_every_control_without_b_and_equals_that_with_b(planted):
    cosine = row(planted["ours"], "return_gap_cosine")["value"]
    # 7 of 32 tokens point to the other corner: 1 - cos = 1 - 2 (.999)(.001) / (.999^2 + .001^2).
    assert cosine == pytest.approx(7 / 32 * (1 - 0.001998 / 0.998002), abs=1e-6)
    for control in ("aa", "blocked", "reset"):
        contrast = row(planted["ours"], f"return_gap_cosine_minus_{control}")["value"]
        assert contrast == pytest.approx(cosine)
    assert row(planted["ours"], "return_gap_cosine_minus_shuffled_b")["value"] == 0
    assert row(planted["aa"], "return_gap_cosine")["value"] == 0


def test_a_mix_that_holds_back_longer_is_told_from_a_clean_return():
    ours = measure(
        lambda protocol: step_gate(
            protocol, lambda context, n: {"mixed": LAG + 3, "real": LAG}.get(context, 0)
        )
    )["ours"]
    assert row(ours, "switch_lag_mixA_minus_clean")["value"] == 3
    assert row(ours, "return_gap_mixed_cosine_minus_clean")["value"] == pytest.approx(
        3 / 32 * (1 - 0.001998 / 0.998002), abs=1e-6
    )


def test_a_lag_that_every_context_has_is_no_memory_of_b():
    ours = measure(lambda protocol: step_gate(protocol, after_any))["ours"]
    assert row(ours, "switch_lag_BA")["value"] == LAG
    assert row(ours, "switch_lag_BA_minus_aa")["value"] == 0
    assert row(ours, "return_gap_cosine")["value"] == 0
    assert ours["p_values"]["switch_lag_BA_minus_aa"] == 1


def test_a_gate_on_tokens_alone_has_exactly_no_return_gap():
    blocks = measure(lambda protocol: noisy_gate(protocol, seeds=2, texts=6))
    token = blocks["token"]
    assert row(token, "switch_lag_BA")["value"] > 0  # hesitant, yet without memory
    compared = set()
    for r in token["rows"]:
        if r["metric"].startswith(("return_gap_cosine", "return_gap_dtw", "return_gap_euclid")):
            assert r["value"] == 0, r["metric"]
        if "switch_lag_BA" in r["metric"] and r["metric"].endswith("_minus_aa"):
            assert r["value"] == 0, r["metric"]
            assert r["seed"] is not None or r["low"] == r["high"] == 0
            compared.add(r["seed"])
    assert compared == {None, 0, 1}
    ours = [row(blocks["ours"], f"return_gap_cosine{end}")["value"] for end in ("", "_minus_token")]
    assert ours[0] == ours[1] > 0


def test_reset_has_no_middle_and_swapped_no_reference_and_both_say_so(planted):
    names = {r["metric"] for r in planted["reset"]["rows"] if r["value"] is not None}
    assert {"switch_lag_BA", "return_gap_cosine"} <= names
    assert not any(name.startswith(("switch_lag_AB", "switching", "mix_")) for name in names)
    assert "no boundary into B" in row(planted["reset"], "switch_lag_AB")["reason"]
    swapped = row(planted["bab"], "return_gap_cosine")
    assert swapped["value"] is None
    assert "no reference" in swapped["reason"]
    assert row(planted["bab"], "switch_lag_BA")["value"] == 0
    assert row(planted["bab"], "switch_lag_AB")["value"] == 2


def test_bands_lie_where_the_tokens_are(planted):
    ours, reset = planted["ours"]["bands"], planted["reset"]["bands"]
    assert ours["position"] == list(range(192))
    assert reset["position"] == list(range(128, 192))
    assert ours["mean"][63:67] == [0.999, 0.999, 0.999, 0.001]
    assert ours["mean"][127:136] == [0.001] * 8 + [0.999]
    assert ours["low"] == ours["mean"] == ours["high"]


def test_bands_are_quantiles_over_texts_of_seed_means():
    protocol, runs = protocol_of(tuples=11), runs_of("ours")
    trace = trace_of(runs, protocol, noisy_gate(protocol, seeds=2, texts=11), phase="hysteresis")
    bands = hysteresis(trace, runs, protocol, pair=PAIR, seeds=SEEDS)["ours"]["bands"]
    at = np.sort(trace["ours/real/64"][:, :, 130, 0].astype(float).mean(axis=0))
    assert bands["mean"][130] == pytest.approx(at.mean(), abs=1e-5)
    assert [bands["low"][130], bands["high"][130]] == pytest.approx([at[1], at[9]], abs=1e-5)


def test_a_lag_never_reached_is_censored_at_the_segment_and_never_zero():
    runs = runs_of("ours")
    ours = measure(lambda protocol: step_gate(protocol, lambda *_: 64), runs)["ours"]
    assert row(ours, "switch_lag_BA")["value"] == 64
    assert ours["censored"]["switch_lag_BA"] == 1
    assert ours["censored"]["switch_lag_AB"] == 0
    median = row(ours, "switch_lag_BA_median")
    assert median["value"] is None
    assert "only 0%" in median["reason"]


def test_every_run_has_its_rows_named_once_and_strict_json():
    blocks = measure(lambda protocol: noisy_gate(protocol, seeds=2, texts=6))
    assert set(blocks) == set(runs_of())
    for block in blocks.values():
        names = [(r["metric"], r["seed"]) for r in block["rows"]]
        assert len(names) == len(set(names))
        assert all(r["value"] is not None or r["reason"] for r in block["rows"])
        assert all(0 < p <= 1 for p in block["p_values"].values())
    assert json.loads(json.dumps(blocks, allow_nan=False)) == blocks


def test_contrasts_need_no_run_for_aa_and_skip_runs_that_are_gone():
    blocks = measure(lambda protocol: step_gate(protocol, after_b), runs_of("ours", "reset"))
    names = {r["metric"] for r in blocks["ours"]["rows"]}
    assert {"switch_lag_BA_minus_aa", "switch_lag_BA_minus_reset"} <= names
    assert not any(name.endswith("_minus_token") for name in names)


# ---- run `original`

CONFIG = OriginalConfig(
    adapter_run="original",
    mixer="original",
    samples=50,
    tokens=32,
    prompts={"a": "x", "b": "y z"},
    mix_prompt="m",
    new_tokens=12,
    temperature=0.8,
    tail_tokens=10,
    area_tokens=20,
    dwell_tokens=(22, 50, 96),
    threshold=0.9,
)


def generation(a, kind="aba", prompt_tokens=(20, 20, 20), seed=0):
    a = np.asarray(a, float)
    weights = np.stack([a, 1 - a], axis=1).tolist()
    return original.Generation(
        kind=kind, seed=seed, prompt_tokens=prompt_tokens, weights=weights, text="", seconds=0.5
    )


def blocky(*pieces):
    return np.concatenate([np.full(n, w) for w, n in pieces])


def test_switch_points_are_crossings_of_a_half_else_the_prompts():
    def points(a, **kw):
        weights = np.stack([a, 1 - a], axis=1)
        return original.switch_points(weights, PAIR, (20, 30, 20), **kw)

    assert points(blocky((0.9, 15), (0.1, 25), (0.8, 40)), mixed=False) == (15, 40)
    assert points(blocky((0.9, 80)), mixed=False) == (20, 50)
    assert points(blocky((0.9, 30), (0.1, 50)), mixed=False) == (20, 50)  # one is too few
    assert points(blocky((0.9, 15), (0.5, 25), (0.8, 40)), mixed=True) == (15, 40)
    assert points(blocky((0.9, 15), (0.1, 25), (0.8, 40)), mixed=True) == (20, 50)


def test_a_sequence_is_measured_as_the_source_does():
    a = blocky((0.95, 20), (0.02, 20), (0.55, 5), (0.95, 35))
    found = original.measure_sequence(generation(a), PAIR, CONFIG)
    assert found["switch_lag_AB"] == 0
    assert found["switch_lag_BA"] == 5
    assert found["switching_asymmetry"] == 5
    assert found["never_reached"] == 0
    assert found["block_tokens"] == 20
    assert found["deep_crystallization_ratio"] == 1
    assert found["avg_python_weight"] == pytest.approx(0.98)
    assert found["tail_area_32"] == pytest.approx(5 * 0.45 + 15 * 0.05)  # spans 20 tokens
    assert found["return_gap_cosine_distance"] == pytest.approx(0)  # last 10 of either A
    assert found["mix_balance"] == pytest.approx(0.02 / 0.98)


def test_never_counts_as_lag_zero_also_at_the_very_end():
    never = blocky((0.95, 20), (0.02, 20), (0.55, 40))
    short = blocky((0.95, 20), (0.02, 38), (0.95, 2))  # too few tokens for three in a row
    for a in (never, short):
        found = original.measure_sequence(generation(a), PAIR, CONFIG)
        assert found["switch_lag_BA"] == 0
        assert found["never_reached"] == 1


def test_a_lag_that_never_ends_is_told_beside_the_zero_that_the_source_writes():
    reached = blocky((0.95, 20), (0.02, 20), (0.95, 40))
    never = blocky((0.95, 20), (0.02, 20), (0.55, 40))
    flicker = blocky((0.95, 3), (0.45, 2), (0.95, 75))  # two crossings inside the first prompt
    kinds = ("aba", "amixba", *["dwell"] * len(CONFIG.dwell_tokens))
    of = [never, reached, *[flicker] * len(CONFIG.dwell_tokens)]
    content = [vars(generation(a, kind=kind)) for a, kind in zip(of, kinds, strict=True)]
    block = original.original_block(content, PAIR, CONFIG, part="hysteresis")
    keys = block["published_keys"]["hysteresis"]["test_aba"]
    assert keys["switch_lag_BA"] == 0  # as its code writes it
    assert block["never"] == [
        "hysteresis.test_aba.switch_lag_BA",
        "hysteresis.test_aba.switching_asymmetry",
    ]
    rows = {row["metric"]: row["value"] for row in block["rows"]}
    assert rows["never_reached.aba[0]"] == 1
    assert rows["never_reached.amixba[1]"] == rows["never_reached_AB.aba[0]"] == 0
    fatigue = original.original_block(content, PAIR, CONFIG, part="fatigue")
    rows = {row["metric"]: row for row in fatigue["rows"]}
    found = [rows[f"block_found.dwell[{i}]"]["value"] for i in range(len(CONFIG.dwell_tokens))]
    assert found == [2] * len(found)  # the same at every length: nothing was varied
    assert rows["block_true.dwell[0]"]["value"] == generation(flicker).prompt_tokens[1]
    assert rows["never_reached_AB.dwell[0]"]["value"] == 1
    assert "block_found" in rows["correlations.deep_crystallization"]["reason"]
    assert fatigue["never"] == []


def test_balance_is_between_the_two_domains_of_several():
    weights = np.tile([0.3, 0.6, 0.1], (80, 1))
    sequence = original.Generation(
        kind="amixba",
        seed=0,
        prompt_tokens=[20, 20, 20],
        weights=weights.tolist(),
        text="",
        seconds=0.5,
    )
    found = original.measure_sequence(sequence, PAIR, CONFIG)
    assert found["mix_balance"] == pytest.approx(0.5)


def sequences(seed):
    aba = blocky((0.95, 20), (0.02, 20), (0.55, 5), (0.95, 35))
    mix = blocky((0.95, 20), (0.45, 20), (0.75, 6), (0.95, 34))
    dwell = [
        generation(
            blocky((0.95, 20), (0.2, 10), (0.02, n - 10), (0.95, 30)), "dwell", (20, n, 20), seed
        )
        for n in (22, 50, 96)
    ]
    return [generation(aba, seed=seed), generation(mix, "amixba", seed=seed), *dwell]


def test_published_keys_are_the_source_s():
    keys = original.published_keys(sequences(0), PAIR, CONFIG)
    assert set(keys["hysteresis"]["test_aba"]) >= {
        "switch_lag_AB",
        "switch_lag_BA",
        "switching_asymmetry",
        "return_gap_cosine_distance",
    }
    mixed = keys["hysteresis"]["test_amixba"]
    assert set(mixed) >= {"switch_lag_mixA", "return_gap_cosine_distance", "avg_mix_entropy"}
    assert mixed["switch_lag_mixA"] == 6
    assert mixed["avg_mix_entropy"] == pytest.approx(
        -0.45 * np.log(0.45) - 0.55 * np.log(0.55), abs=1e-6
    )
    fatigue = keys["fatigue"]
    assert set(fatigue["correlations"]) >= {"deep_crystallization", "switch_lag"}
    shares = [12 / 22, 40 / 50, 86 / 96]
    assert [t["python_block_length"] for t in fatigue["tests"]] == [22, 50, 96]
    assert [t["deep_crystallization_ratio"] for t in fatigue["tests"]] == pytest.approx(shares)
    assert fatigue["correlations"]["deep_crystallization"] == pytest.approx(
        np.corrcoef([22, 50, 96], shares)[0, 1]
    )
    assert fatigue["correlations"]["switch_lag"] is None  # all lags 0: undefined, not NaN
    assert fatigue["summary"]["num_tests"] == 3
    assert fatigue["summary"]["avg_deep_crystallization"] == pytest.approx(np.mean(shares))


@pytest.mark.parametrize("part", ["hysteresis", "fatigue"])
def test_the_original_block_has_a_row_a_seed_and_the_first_seed_s_keys(part):
    content = [vars(s) | {"prompt_tokens": list(s.prompt_tokens)} for s in sequences(0)]
    content += [{**record, "seed": 1} for record in content]
    block = original.original_block(content, PAIR, CONFIG, part=part)
    assert set(block["published_keys"]) == {part, "timing"}
    timing = {"hysteresis": {"phase5_hysteresis_sec": 1.0}, "fatigue": {"phase6_fatigue_sec": 1.5}}
    assert block["published_keys"]["timing"] == timing[part]
    assert {r["seed"] for r in block["rows"]} == {0, 1}
    assert all(r["value"] is not None or r["reason"] for r in block["rows"])
    name = {"hysteresis": "test_aba.switch_lag_BA", "fatigue": "tests[2].python_block_length"}
    assert row(block, name[part], seed=1)["value"] == {"hysteresis": 5, "fatigue": 96}[part]
    json.dumps(block, allow_nan=False)


def test_dwell_prompts_repeat_the_b_prompt_to_length():
    def encode(text):
        return [ord(c) for c in text]

    def decode(ids):
        return "".join(map(chr, ids))

    rows = original.prompts_of(CONFIG, ("a", "b"), encode, decode)
    assert [kind for kind, _ in rows] == ["aba", "amixba", "dwell", "dwell", "dwell"]
    assert rows[0][1] == ("x", "y z", "x")
    assert rows[1][1] == ("x", "m", "x")
    assert [len(prompts[1]) for _, prompts in rows[2:]] == [22, 50, 96]
    assert rows[2][1][1].startswith("y zy zy z")
