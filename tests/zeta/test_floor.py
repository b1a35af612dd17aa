"""The floor as a stage: levels out of a seed, and through JSON unchanged."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from mneme.zeta import floor
from mneme.zeta.floor import as_json, floor_levels, from_json
from mneme.zeta.mdn import BAYES, mdn_runs
from mneme.zeta.reading_config import FloorConfig, MdnConfig
from mneme.zeta.scores import MeasuredRun, score
from mneme.zeta.sine_process import Estimate, Floor

CONFIG = {"contexts": (0, 1, 2, 4), "pasts": (0, 0, 0, 20), "windows": 10, "window": 16}


@pytest.fixture(scope="module")
def levels():
    return floor_levels(FloorConfig(**CONFIG, seed=0))


def test_levels_of_known_height(levels):
    assert [level.context for level in levels] == [0, 1, 2, 4]
    assert [level.pasts for level in levels] == [None, None, None, 20]
    nll = [level.nll.value for level in levels]
    assert nll == sorted(nll, reverse=True)
    # Wigner's surmise is the law of a spacing to 6e-3, where one spacing of context is worth 5e-2.
    s = np.linspace(1e-4, 6, 60_001)
    law = 32 / math.pi**2 * s**2 * np.exp(-4 * s**2 / math.pi)
    surmise = -np.trapezoid(law * np.log(law), s)
    assert nll[0] == pytest.approx(surmise, abs=6e-3)
    assert [level.nll.error == 0 for level in levels] == [True, True, True, False]


def test_the_seed_decides_the_spectra(monkeypatch):
    seen = []
    monkeypatch.setattr(floor, "floors", lambda *told: seen.append(told))
    for seed in (0, 0, 1):
        floor_levels(FloorConfig(**CONFIG, seed=seed))
    assert seen[0][:2] == ((0, 1, 2, 4), (0, 0, 0, 20))
    first, again, other = (windows_WT for _, _, windows_WT in seen)
    assert first.shape == (10, 16)
    assert abs(first.mean() - 1) < 0.05
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).any()


def test_through_json_and_back(levels):
    made = [
        *levels,
        Floor(
            context=8,
            nll=Estimate(0.1 + 0.2, 1e-17),
            crps=Estimate(-1.0, 2.0),
            mae=Estimate(3.0, 4.0),
            pasts=7,
        ),
    ]
    told = json.loads(json.dumps(as_json(made), allow_nan=False))
    assert from_json(told) == made
    assert isinstance(from_json(told)[0].nll, Estimate)
    assert told[-1] == {
        "context": 8,
        "pasts": 7,
        "nll": [0.1 + 0.2, 1e-17],
        "crps": [-1.0, 2.0],
        "mae": [3.0, 4.0],
    }


SEEN = 4
READ = MdnConfig(
    horizons=(10,),
    context_edges=(1, 2, 5, 16, 64),
    height_parts=2,
    pit_bins=4,
    block=3,
    resamples=200,
)
ERRORS = {1: 0.0, 4: 0.002, 16: 0.001, 32: 0.003}


def known_floor(context):
    """.50 at 1, .46 at 4, .44 at 16, .42 at 32, straight in log context, then held."""
    return np.interp(np.log2(context), [0, 2, 4, 5], [0.50, 0.46, 0.44, 0.42])


FLOOR = [
    Floor(
        context=context,
        nll=Estimate(float(known_floor(context)), error),
        crps=Estimate(0.2, 0.0),
        mae=Estimate(0.3, 0.0),
        pasts=None,
    )
    for context, error in ERRORS.items()
]


def bayes_nll(windows=30):
    """NLL that windows happen to have: their noise is far above what is looked for."""
    return 0.45 + np.random.default_rng(0).normal(size=(windows, 63))


def measured(*nll_SWT, system="gue", seeds=True, first=0, further=None, beyond=False):
    windows = np.arange(first, first + len(nll_SWT[0]))
    spacings = np.ones((len(windows), 64))
    readings = [{"spacings_WN": spacings, "nll_WT": nll_WT} for nll_WT in nll_SWT]
    return MeasuredRun(
        scores=tuple(score(each, READ) for each in readings),
        seeds=tuple(range(len(nll_SWT))) if seeds else None,
        system=system,
        windows=windows,
        heights_W=windows.astype(float),
        information="",
        beyond=beyond,
        control_of=None,
        against=(),
        further=further or {},
    )


def floor_rows(runs, name="e0_gue"):
    rows = mdn_runs(runs, READ, floor=FLOOR)[name]["rows"]
    return {row["metric"]: row for row in rows if "floor" in row["metric"]}


def bayes(context=SEEN, **changes):
    chosen = {"chosen": {"context": context}}
    return measured(bayes_nll(), seeds=False, further=chosen, **changes)


def beyond(first, past, seen=SEEN):
    """How much lower the floor is than what a predictor of `seen` spacings can reach."""
    contexts = range(first, past)
    return np.mean([known_floor(min(n, seen)) - known_floor(n) for n in contexts])


BINS = {"@1": (1, 2), "@2-4": (2, 5), "@5-15": (5, 16), "@16-63": (16, 64), "": (1, 64)}


@pytest.mark.parametrize("worse", [0.0, 0.05, -0.2])
def test_against_the_bayes_predictor_the_windows_noise_cancels(worse):
    runs = {"e0_gue": measured(bayes_nll() + worse), BAYES: bayes()}
    rows = floor_rows(runs)
    assert set(rows) == {f"nll_minus_floor{at}" for at in BINS}
    for at, contexts in BINS.items():
        row = rows[f"nll_minus_floor{at}"]
        assert row["value"] == pytest.approx(worse + beyond(*contexts), abs=1e-9)
        # nothing is left to resample: what remains is the floor's own error, where it is used
        half = 0.0
        if contexts[1] - 1 > SEEN:
            of = [np.log2(list(ERRORS)), list(ERRORS.values())]
            half = 1.959964 * np.interp(np.log2(range(*contexts)), *of).mean()
        assert row["high"] - row["value"] == pytest.approx(half, abs=1e-9)
        assert row["value"] - row["low"] == pytest.approx(half, abs=1e-9)
        assert row["n"] == 30
    assert rows["nll_minus_floor@2-4"]["value"] == pytest.approx(worse, abs=1e-9)
    assert beyond(16, 64) > 0.02


def test_seeds_are_averaged_before_they_meet_the_bayes_predictor():
    runs = {"e0_gue": measured(bayes_nll() + 0.03, bayes_nll() + 0.07), BAYES: bayes()}
    row = floor_rows(runs)["nll_minus_floor@1"]
    assert row["value"] == pytest.approx(0.05, abs=1e-9)


def test_a_bayes_predictor_that_sees_everything_adds_nothing():
    runs = {"e0_gue": measured(bayes_nll() + 0.05), BAYES: bayes(context=63)}
    values = [row["value"] for row in floor_rows(runs).values()]
    assert values == pytest.approx([0.05] * len(BINS), abs=1e-9)


def test_on_other_windows_the_floor_alone_is_taken_off():
    nll_WT = bayes_nll() + 0.05
    rows = floor_rows({"e0_gue": measured(nll_WT), BAYES: bayes(first=1)})
    for at, (first, past) in BINS.items():
        level = np.mean([known_floor(n) for n in range(first, past)])
        told = nll_WT[:, first - 1 : past - 1].mean() - level
        assert rows[f"nll_minus_floor{at}"]["value"] == pytest.approx(told, abs=1e-9)
    row = rows["nll_minus_floor@1"]
    assert row["high"] - row["low"] > 0.1  # the windows' noise is back


def test_only_trained_runs_on_gue_meet_the_floor():
    runs = {"e0": measured(bayes_nll(), system="zeta"), BAYES: bayes()}
    assert floor_rows(runs, "e0") == floor_rows(runs, BAYES) == {}


LONGEST = 63


@pytest.mark.parametrize("worse", [0.0, 0.05])
def test_a_memory_beyond_the_window_is_set_against_the_longest_context_everywhere(worse):
    """It predicts the first targets of a window as well as the last: that is its floor."""
    contexts = np.arange(1, 64)
    gained_T = known_floor(LONGEST) - known_floor(np.minimum(contexts, SEEN))
    told = bayes_nll() + gained_T + worse
    rows = floor_rows({"e0_gue": measured(told, beyond=True), BAYES: bayes()})
    assert set(rows) == {f"nll_minus_floor{at}" for at in BINS}
    for at in BINS:
        assert rows[f"nll_minus_floor{at}"]["value"] == pytest.approx(worse, abs=1e-9)
    # at its place in the window alone it would lie below what nothing can beat
    lenient = floor_rows({"e0_gue": measured(told), BAYES: bayes()})
    assert lenient["nll_minus_floor@1"]["value"] == pytest.approx(worse - 0.08, abs=1e-9)
    assert lenient["nll_minus_floor"]["value"] < worse - 0.005
    alone = np.full((30, 63), known_floor(LONGEST) + worse)
    for row in floor_rows({"e0_gue": measured(alone, beyond=True)}).values():
        assert row["value"] == pytest.approx(worse, abs=1e-9)


def test_a_memory_of_another_spectrum_is_not_set_against_the_floor():
    """Window 0 begins a spectrum (3,328 spacings are 52 windows of 64), window 1 does not."""
    told = np.full((30, 63), known_floor(LONGEST))
    told[0] = 5.0
    for row in floor_rows({"e0_gue": measured(told, beyond=True)}).values():
        assert (row["value"], row["n"]) == (pytest.approx(0.0, abs=1e-9), 29)
    assert floor_rows({"e0_gue": measured(told)})["nll_minus_floor"]["n"] == 30
