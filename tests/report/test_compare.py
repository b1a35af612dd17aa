"""Two result folders: the source's table, differences of effects, and growth with size."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from mneme.report.claims import decide
from mneme.report.claims_config import ClaimConfig, EffectConfig
from mneme.report.compare import SOURCE_ROWS, compare
from mneme.report.compare_claims import independent_difference
from mneme.report.compare_size import SIZE_CLAIM
from mneme.report.compare_table import compare_markdown, render_compare
from mneme.stats.intervals import wilson
from mneme.stats.rows import Interval
from mneme.stats.verdict import judge

PUBLISHED = {
    "hysteresis": {
        "mistral_7b_fast": {
            "test_aba.switch_lag_BA": 9,
            "test_aba.return_gap_cosine_distance": 0.3395,
            "test_amixba.return_gap_cosine_distance": 0.2288,
            "test_amixba.switch_lag_mixA": 14,
        },
        "gpt2": {
            "test_aba.switch_lag_BA": 9,
            "test_amixba.return_gap_cosine_distance": 0.1909,
        },
    },
    "fatigue": {
        "mistral_7b_fast": {"correlations.deep_crystallization": 0.8644},
        "gpt2": {"correlations.deep_crystallization": 0.7381},
    },
    "mixer": {"mistral_7b_fast": {"router_accuracy": 1.0}},
}
ORIGINAL = {
    "adapters": {},
    "hysteresis": {
        "test_aba.switch_lag_BA": 4.0,
        "test_aba.return_gap_cosine_distance": 0.2,
        "test_amixba.return_gap_cosine_distance": 0.15,
        "test_amixba.switch_lag_mixA": 0.0,
        "never_reached.aba[0]": 0.0,
        "never_reached.amixba[1]": 1.0,
    },
    "fatigue": {"correlations.deep_crystallization": None},
    "mixer": {"router_training_accuracy": 0.75},
}


def row(metric, value, **further):
    reason = "all alike" if value is None else None
    frame = dict.fromkeys(("low", "high", "n", "seed", "control_of"))
    return {"metric": metric, "value": value, "unit": "", "reason": reason, **frame, **further}


def measured(metric, value, half, *, n=50, unit="tokens"):
    return row(metric, value, low=value - half, high=value + half, n=n, unit=unit)


def headline(phase, runs, config, *, code="a" * 16):
    return {
        "phase": phase,
        "code": code,
        "config": config,
        "runs": runs,
        "published": PUBLISHED.get(phase, {}),
    }


def effect(metric, *, direction="above", delta=1.0, reference=0.0):
    return EffectConfig(
        phase="hysteresis",
        run="ours",
        metric=metric,
        reference=reference,
        direction=direction,
        delta=delta,
    )


def claim(*effects, room="routing", positives=(), untestable=None, statement="a | b <grows>"):
    return ClaimConfig(
        room=room,
        source=4,
        statement=statement,
        published="",
        effects=effects,
        positives=positives,
        nulls=(),
        original=None,
        untestable=untestable,
        note="",
    )


LEDGER = {"lag": claim(effect("lag")), "gap": claim(effect("gap", direction="below"))}


def folder(name, parameters, rows, *, ledger=LEDGER, rank=8, tuples=50, init="pretrained"):
    """Return what `mneme compare` reads of one result folder."""
    made = {
        phase: {"original": {"rows": [row(m, v, seed=0, n=1) for m, v in values.items()]}}
        for phase, values in ORIGINAL.items()
    }
    made["hysteresis"]["ours"] = {"rows": rows}
    made["model"] = {name: {"rows": [row("parameters", parameters)]}}
    config = {
        "model": {"backbone": {"name": name}},
        "adapters": {"adapters": {"rank": rank}},
        "mixer": {"seeds": [0]},
        "hysteresis": {"protocol": {"tuples": tuples, "length": 96}},
        "fatigue": {"protocol": {"tuples": tuples, "length": 96}},
    }
    files = {phase: headline(phase, runs, config[phase]) for phase, runs in made.items()}
    summary = {
        "model_name": name,
        "code": "b" * 16,
        "config_hash": "c" * 16,
        "device_name": "cpu",
        "seconds": 60.0,
        "versions": {"python": "3.11.7"},
        "backbone": {"revision": None, "init": init, "dtype": "float32"},
        "commit": {"commit": "d" * 40, "dirty": False, "reason": None},
        "timing": {"total_sec": 41.5},
        "published": {"mistral_7b_fast": {"timing.total_sec": 82.5}},
    }
    return {**files, "summary": summary, "claims": headline("claims", decide(ledger, files), {})}


@pytest.fixture(scope="module")
def pair():
    """Two folders in which every effect grows; made once, for `decide` costs its 70 ms."""
    small = [measured("lag", 3.0, 0.5), measured("gap", -2.0, 0.4)]
    large = [measured("lag", 6.0, 0.5), measured("gap", -5.0, 0.4)]
    return folder("small", 1e8, small), folder("large", 8e9, large)


@pytest.fixture
def small(pair):
    return copy.deepcopy(pair[0])


@pytest.fixture
def large(pair):
    return copy.deepcopy(pair[1])


def test_newcombes_example_of_two_proportions():
    """His method 10 (1998, table II): 56 of 70 against 48 of 80."""
    found = independent_difference(wilson(48, 80), wilson(56, 70))
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_symmetric_intervals_add_in_quadrature():
    found = independent_difference(Interval(1.0, -2.0, 4.0), Interval(3.0, -1.0, 7.0))
    assert (found.value, found.low, found.high) == (2.0, -3.0, 7.0)


def test_an_interval_is_stretched_to_its_value():
    found = independent_difference(Interval(0.0, 0.0, 0.0), Interval(1.0, 1.5, 2.0))
    assert (found.low, found.high) == (1.0, 2.0)


def test_a_difference_without_ends_says_whose():
    whole, bare = Interval(1.0, 0.0, 2.0), Interval(4.0, None, None, "one text")
    assert independent_difference(whole, bare) == Interval(3.0, None, None, "B: one text")
    gone = Interval.undefined("no run")
    assert independent_difference(gone, bare) == Interval.undefined("A: no run")
    assert independent_difference(bare, gone) == Interval.undefined("B: no run")


ends = st.floats(0, 1e6)
intervals = st.builds(
    lambda value, below, above: Interval(value, value - below, value + above),
    st.floats(-1e6, 1e6),
    ends,
    ends,
)


@given(intervals, intervals)
def test_exchanging_the_folders_mirrors_the_difference(a, b):
    one, other = independent_difference(a, b), independent_difference(b, a)
    assert (one.value, one.low, one.high) == (-other.value, -other.high, -other.low)
    assert one.low <= one.value <= one.high
    widest = max(a.high - a.low, b.high - b.low)
    assert one.high - one.low >= widest * (1 - 1e-9) - 1e-6


def student(values):
    half = stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / math.sqrt(len(values))
    return Interval(values.mean(), values.mean() - half, values.mean() + half)


def test_the_interval_of_a_difference_covers():
    """2,000 pairs of means of 20 and 40 draws of unequal spread, with Student's intervals."""
    generator, hits = np.random.default_rng(0), 0
    for _ in range(2000):
        draws = (generator.normal(0, spread, n) for n, spread in ((20, 1.0), (40, 3.0)))
        found = independent_difference(*map(student, draws))
        hits += found.low <= 0 <= found.high
    assert 0.93 <= hits / 2000 <= 0.97


def lines(comparison):
    return {line["label"]: line for line in comparison["source"]["rows"]}


def test_the_sources_table_holds_four_columns_and_the_change(small, large):
    large["hysteresis"]["runs"]["original"]["rows"][0]["value"] = 7.0
    lag = lines(compare(small, large))["Switch-lag B->A"]
    shown = {key: lag[key]["value"] for key in ("gpt2", "mistral_7b_fast", "a", "b", "change")}
    assert shown == {"gpt2": 9, "mistral_7b_fast": 9, "a": 4.0, "b": 7.0, "change": 3.0}


def test_the_sources_table_names_every_row_of_the_contract(small, large):
    assert len(compare(small, large)["source"]["rows"]) == len(SOURCE_ROWS) == 10
    table = lines(compare(small, large))
    assert table["Total time"]["a"]["value"] == 41.5
    assert table["Total time"]["mistral_7b_fast"]["value"] == 82.5
    assert table["Router accuracy"]["a"]["value"] == 0.75
    assert table["Mix entropy"]["a"]["reason"].startswith("not measured")


def test_gpt2s_gap_stands_where_it_was_measured(small, large):
    comparison = compare(small, large)
    table = lines(comparison)
    assert table["Return-gap (cosine)"]["gpt2"] == {"value": None, "reason": "not published"}
    assert table["Return-gap after Mix"]["gpt2"]["value"] == 0.1909
    assert any("0.1909" in note for note in comparison["source"]["notes"])


def test_a_lag_of_never_is_not_shown_as_none(small, large):
    cells = lines(compare(small, large))["Mix->A lag"]
    assert cells["a"]["value"] is None
    assert cells["a"]["reason"].startswith("never")
    assert cells["change"] == {"value": None, "reason": "not defined on both sides"}


def test_undefined_cells_keep_their_reason(small, large):
    comparison = compare(small, large)
    assert lines(comparison)["Deep-cryst. correlation"]["b"]["reason"] == "all alike"
    assert "Deep-cryst. correlation of A and B: all alike." in comparison["source"]["notes"]


def test_published_figures_come_from_either_folder(small, large):
    del small["fatigue"]
    cells = lines(compare(small, large))["Deep-cryst. correlation"]
    assert cells["gpt2"]["value"] == 0.7381
    assert cells["a"]["reason"] == "not measured: no run original in fatigue.json has it"


def test_figures_are_those_of_the_projects_own_files():
    """Every address of the source's table is one that the files publish."""
    from mneme.routing import published

    told = {phase: block["mistral_7b_fast"] for phase, block in published.PUBLISHED.items()}
    missing = [line.key for line in SOURCE_ROWS if line.key not in told[line.phase]]
    assert missing == []


def test_claims_stand_side_by_side_with_the_difference(small, large):
    lag = compare(small, large)["claims"][0]
    assert (lag["a"]["verdict"], lag["b"]["verdict"]) == ("supported", "supported")
    (found,) = lag["effects"]
    assert (found["a"]["value"], found["b"]["value"], found["unit"]) == (3.0, 6.0, "tokens")
    width = math.hypot(0.5, 0.5)
    assert found["difference"]["value"] == 3.0
    assert found["difference"]["low"] == pytest.approx(3 - width)
    assert found["difference"]["high"] == pytest.approx(3 + width)


def test_numbers_measured_once_are_not_compared(small):
    same = {**copy.deepcopy(small), "summary": {**small["summary"], "seconds": 61.0}}
    found = compare(small, same)["claims"][0]["effects"][0]["difference"]
    assert found["value"] is None
    assert "measured once" in found["reason"]


def test_saturated_effects_differ_by_nothing(large):
    rows = [measured("lag", 0.0, 0.0), measured("gap", 0.0, 0.0)]
    a, b = folder("a", 1e8, rows), folder("b", 8e9, rows)
    found = compare(a, b)["claims"][0]["effects"][0]["difference"]
    assert (found["value"], found["low"], found["high"]) == (0.0, 0.0, 0.0)


def test_units_must_agree(small):
    rows = [measured("lag", 3.0, 0.5, unit="s"), measured("gap", -2.0, 0.3)]
    found = compare(small, folder("large", 8e9, rows))["claims"][0]["effects"][0]
    assert found["difference"]["reason"] == "units differ: 'tokens' and 's'"


def test_an_effect_not_measured_on_one_side_says_so(small):
    only_gap = folder("large", 8e9, [measured("gap", -2.0, 0.3)])
    found = compare(small, only_gap)["claims"][0]["effects"][0]
    assert found["unit"] == "tokens"
    assert found["b"]["value"] is None
    assert found["difference"]["reason"].startswith("B: hysteresis.json: run 'ours' has no")


def test_ledgers_that_differ_are_told(small):
    ledger = {"lag": claim(effect("lag", reference=1.0)), "new": claim(effect("gap"))}
    rows = [measured("lag", 3.0, 0.5), measured("gap", -2.0, 0.3)]
    claims = compare(small, folder("large", 8e9, rows, ledger=ledger))["claims"]
    assert [found["claim"] for found in claims] == ["lag", "gap", "new"]
    assert claims[1]["b"] is None
    assert claims[2]["a"] is None
    reasons = [found["difference"]["reason"] for found in claims[0]["effects"]]
    assert reasons == ["only one ledger has it"] * 2


def test_a_folder_without_claims_is_compared_all_the_same(small, large):
    del small["claims"]
    comparison = compare(small, large)
    assert comparison["differences"]["only_b"] == ["claims"]
    assert comparison["size"]["reason"] == "A has no claims.json"
    del large["claims"]
    assert "Neither folder has claims.json." in render_compare(compare(small, large))


def test_effects_that_grow_support_the_claim(small, large):
    size = compare(small, large)["size"]
    assert (size["larger"], size["verdict"]) == ("b", "supported")
    assert size["parameters"] == {"a": 100_000_000, "b": 8_000_000_000}
    assert [found["difference"]["value"] for found in size["effects"]] == [3.0, -3.0]
    assert [found["n"] for found in size["effects"]] == [50, 50]
    assert all(found["p_holm"] < 0.05 for found in size["effects"])


def test_the_order_of_the_folders_does_not_matter(small, large):
    one, other = compare(small, large)["size"], compare(large, small)["size"]
    assert other["larger"] == "a"
    assert one["effects"] == other["effects"]


def test_one_effect_that_shrinks_refutes_the_claim(small):
    rows = [measured("lag", 6.0, 0.5), measured("gap", -1.0, 0.4)]
    size = compare(small, folder("large", 8e9, rows))["size"]
    assert size["verdict"] == "refuted"
    assert [found["verdict"] for found in size["effects"]] == ["supported", "refuted"]
    assert size["effects"][1]["detail"] == "opposite in sign"


def test_wide_intervals_leave_it_open(small):
    rows = [measured("lag", 6.0, 5.0), measured("gap", -5.0, 0.4)]
    size = compare(small, folder("large", 8e9, rows))["size"]
    assert size["verdict"] == "inconclusive"
    assert size["effects"][0]["needed_n"] > 50


def test_no_growth_is_found_in_planted_noise():
    """The same effect on both backbones: 2,000 pairs of 50 texts, at most 6 % told to grow."""
    generator, grown = np.random.default_rng(1), 0
    for _ in range(2000):
        apart = independent_difference(*(student(generator.normal(2, 1, 50)) for _ in range(2)))
        verdict = judge(apart, 50, direction="above", delta=1e-6).verdict
        grown += verdict == "supported"
    assert grown / 2000 <= 0.06


def test_the_ledger_may_name_the_effects_that_grow(small, large):
    ledger = {**LEDGER, SIZE_CLAIM: claim(effect("lag"), untestable="one backbone")}
    rows = [measured("lag", 3.0, 0.5), measured("gap", -2.0, 0.4)]
    more = [measured("lag", 6.0, 0.5), measured("gap", -1.0, 0.4)]
    pair = folder("s", 1e8, rows, ledger=ledger), folder("l", 8e9, more, ledger=ledger)
    size = compare(*pair)["size"]
    assert size["statement"] == "a | b <grows>"
    assert [found["address"] for found in size["effects"]] == ["hysteresis ours lag"]
    assert size["verdict"] == "supported"


def test_absence_other_rooms_and_repeats_are_not_asked_to_grow():
    ledger = {
        "lag": claim(effect("lag")),
        "again": claim(effect("lag")),
        "absent": claim(effect("gap", direction="none")),
        "elsewhere": claim(effect("gap"), room="ttt"),
        "untold": claim(effect("gap"), untestable="a memory it cannot have"),
    }
    rows = [measured("lag", 3.0, 0.5), measured("gap", -2.0, 0.4)]
    more = [measured("lag", 6.0, 0.5), measured("gap", -1.0, 0.4)]
    size = compare(folder("s", 1e8, rows, ledger=ledger), folder("l", 8e9, more, ledger=ledger))[
        "size"
    ]
    assert [found["claim"] for found in size["effects"]] == ["lag"]


def test_a_claim_whose_controls_fail_cannot_grow():
    ledger = {"lag": claim(effect("lag"), positives=(effect("planted"),))}
    rows = [measured("lag", 3.0, 0.5), measured("planted", 5.0, 0.1)]
    more = [measured("lag", 6.0, 0.5), measured("planted", 0.0, 0.1)]
    size = compare(folder("s", 1e8, rows, ledger=ledger), folder("l", 8e9, more, ledger=ledger))[
        "size"
    ]
    assert size["verdict"] == "inconclusive"
    assert size["effects"][0]["reason"] == "the claim's controls fail in B"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"parameters": 1e8}, "both backbones have 100,000,000 parameters"),
        ({"init": "random"}, "B's backbone has random weights: for speed and memory only"),
        (
            {"rank": 16},
            "not size alone differs: adapters.rank; give both backbones the same settings",
        ),
        ({"ledger": {}}, "no effect of room routing is in both ledgers"),
    ],
)
def test_size_is_judged_only_where_the_folders_differ_in_it(small, change, reason):
    rows = [measured("lag", 6.0, 0.5), measured("gap", -5.0, 0.4)]
    size = compare(small, folder(**{"name": "l", "parameters": 8e9, "rows": rows, **change}))[
        "size"
    ]
    assert (size["verdict"], size["reason"]) == ("not testable as stated", reason)
    assert size["effects"] == []


def test_an_unknown_size_is_told(small, large):
    del small["model"]
    reason = compare(small, large)["size"]["reason"]
    assert reason == "the size of A's backbone is not known: no model.json"
    large["model"]["runs"]["large"]["rows"].clear()
    reason = compare(large, small)["size"]["reason"]
    assert reason == "the size of A's backbone is not known: model.json has no row `parameters`"


def test_settings_that_only_sharpen_do_not_hinder(small):
    rows = [measured("lag", 6.0, 0.5, n=200), measured("gap", -5.0, 0.4, n=200)]
    size = compare(small, folder("large", 8e9, rows, tuples=200))["size"]
    assert size["verdict"] == "supported"
    assert [found["n"] for found in size["effects"]] == [50, 50]


def test_what_else_differs_is_listed(small, large):
    del large["fatigue"]
    large["mixer"]["code"] = "9" * 16
    large["summary"]["versions"] = {"python": "3.11.7", "torch": "2.13.0"}
    found = compare(small, large)["differences"]
    assert found["only_a"] == ["fatigue"]
    assert found["only_b"] == []
    assert found["code"] == ["mixer"]
    assert found["versions"] == {"torch": [None, "2.13.0"]}


def test_a_setting_of_several_phases_is_listed_once(small):
    rows = [measured("lag", 6.0, 0.5), measured("gap", -5.0, 0.4)]
    large = folder("small", 1e8, rows, tuples=200)
    large["mixer"]["config"] = {"seeds": [0, 1], "labels": {"x": 1}}
    found = {item["key"]: item for item in compare(small, large)["differences"]["settings"]}
    assert set(found) == {"protocol.tuples", "seeds", "labels"}
    assert found["protocol.tuples"]["phases"] == ["hysteresis", "fatigue"]
    assert (found["seeds"]["a"], found["seeds"]["b"]) == ("[0]", "[0, 1]")
    assert (found["labels"]["a"], found["labels"]["b"]) == ("absent", "1 keys")


def test_lists_of_blocks_are_compared_entry_by_entry(small, large):
    small["claims"]["config"] = {"lag": {"effects": [{"delta": 1.0}, {"delta": 2.0}]}}
    large["claims"]["config"] = {"lag": {"effects": [{"delta": 1.0}, {"delta": 3.0}]}}
    settings = compare(small, large)["differences"]["settings"]
    assert {"key": "lag.effects[1].delta", "phases": ["claims"], "a": "2.0", "b": "3.0"} in settings


def test_a_comparison_is_strict_json(small, large):
    comparison = compare(small, large)
    assert json.loads(json.dumps(comparison, allow_nan=False)) == comparison


def test_the_same_folder_twice_is_refused(small):
    with pytest.raises(ValueError, match=r"A and B hold the same results .*: name two folders"):
        compare(small, copy.deepcopy(small))


def test_a_folder_without_summary_is_refused(small, large):
    del large["summary"]
    with pytest.raises(ValueError, match=r"folder B has no summary.json: run snakemake there"):
        compare(small, large)


def test_the_text_is_aligned_and_fits_a_terminal(small, large):
    text = render_compare(compare(small, large))
    found = text.splitlines()
    assert max(map(len, found)) <= 80
    head = next(line for line in found if "GPT-2*" in line)
    table = found[found.index(head) : found.index(head) + 11]
    assert {len(line) for line in table} == {len(head)}
    assert any(line.split() == ["Mix->A", "lag,", "tokens", "-", "14", "never", "never", "-"]
               for line in table)  # fmt: skip
    assert "B - A 3 [2.293, 3.707]" in text
    assert "Verdict: supported (2 of 2 effects grow by delta or more)" in text
    assert "identical" in text


def test_the_text_tells_what_else_differs(small, large):
    text = render_compare(compare(small, large))
    assert 'backbone.name (A | B): "small" | "large" (model)' in text
    large["adapters"]["config"]["adapters"] = {f"key{n}": "x" * 99 for n in range(20)}
    text = render_compare(compare(small, large))
    assert "and 10 more settings" in text
    assert "x" * 41 not in text
    twin = {**small, "summary": {**small["summary"], "seconds": 1.0}}
    assert "nothing else differs" in render_compare(compare(small, twin))


def test_markdown_tables_keep_their_columns(small, large):
    text = compare_markdown(compare(small, large))
    assert text.startswith("# small (A) and large (B)\n")
    assert "a \\| b &lt;grows>" in text
    tables = [block for block in text.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 3
    for table in tables:
        counts = {line.replace("\\|", "").count("|") for line in table.splitlines()}
        assert len(counts) == 1
