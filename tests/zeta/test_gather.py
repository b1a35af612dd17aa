"""Files of readings as measured runs: who is compared with whom, told what, clipped how."""

from __future__ import annotations

import numpy as np
import pytest
from zeta_runs import run_of

from mneme.core.seeds import numpy_generator
from mneme.zeta.gather import (
    LEAST_SPACING,
    flatten,
    kde_name,
    measured_references,
    measured_run,
    references_of,
    sampled_sequences,
)
from mneme.zeta.mdn import BAYES, mdn_runs
from mneme.zeta.reading_config import MdnConfig, ReferenceConfig
from mneme.zeta.references import reference_readings
from mneme.zeta.sine_process import predict
from mneme.zeta.surrogates import gue_spacings
from mneme.zeta.windows import split_windows

WINDOW = 144
CONFIG = MdnConfig(
    horizons=(10, 16),
    context_edges=(1, 2, WINDOW),
    height_parts=2,
    pit_bins=4,
    block=2,
    resamples=100,
)
REFERENCES = ReferenceConfig(
    orders=(1,), walk_order=2, walk_windows=(4,), horizon=16, samples=2, bayes_context=3
)
RUNS = {
    "e0": run_of("none"),
    "e0_distance": run_of("none", position="distance"),
    "v1": run_of("prefix"),
    "v1_distance": run_of("prefix", position="distance"),
    "slot_dropout": run_of("prefix", slot_dropout=0.1, control_of="v1"),
    "carry": run_of("carry"),
    "carry_reset": run_of("carry_reset", control_of="carry"),
    "primes": run_of("primes"),
    "oracle": run_of("oracle", control_of="primes"),
    "e0_interpolation": run_of("none", split="interpolation"),
    "e0_gue": run_of("none", system="gue", control_of="e0"),
    "carry_gue": run_of("carry", system="gue", control_of="carry"),
    "carry_reset_gue": run_of("carry_reset", system="gue", control_of="carry_gue"),
    "primes_shuffled": run_of("primes", system="shuffled", control_of="primes"),
}
TESTED = np.arange(7, 11)


def readings(windows=TESTED, *, shift=0.0):
    rng = np.random.default_rng(0)
    return {
        "spacings_WN": rng.gamma(5.0, 1 / 5, (len(windows), WINDOW)),
        "nll_WT": rng.normal(size=(len(windows), WINDOW - 1)) + shift,
        "windows_W": windows,
        "heights_W": windows * 100.0,
    }


def reference_runs():
    """References as `zeta_references` writes them: names by system, one array each."""
    names = {
        "zeta": ("kde", "ar1", "ar16", "ar2_walk", "level"),
        "gue": ("kde_gue", BAYES),
        "shuffled": ("kde_shuffled",),
    }
    found = {}
    for system, members in names.items():
        arrays = {"windows_W": TESTED, "heights_W": TESTED * 100.0}
        for number, name in enumerate(members):
            told = readings(shift=float(number))
            arrays |= {f"{name}/{key}": told[key] for key in ("spacings_WN", "nll_WT")}
        facts = {name: {"information": f"all of {name}", "chosen": {"p": 1}} for name in members}
        found |= measured_references(arrays, facts, CONFIG, system=system)
    return found


def gathered(name, *, windows=TESTED, seeds=(0,), histories=({},), files=None):
    files = [readings(windows)] if files is None else files
    return measured_run(
        name, RUNS, files, histories, CONFIG, seeds=seeds, references=reference_runs()
    )


@pytest.mark.parametrize(
    ("name", "against"),
    [
        ("e0", {"kde", "ar2_walk"}),
        ("e0_distance", {"kde", "ar2_walk"}),
        ("v1", {"e0", "kde", "ar2_walk"}),
        ("v1_distance", {"e0_distance", "kde", "ar2_walk"}),
        ("slot_dropout", {"e0", "v1", "kde", "ar2_walk"}),
        ("carry", {"e0", "carry_reset", "kde", "ar2_walk"}),
        ("carry_reset", {"e0", "carry", "kde", "ar2_walk"}),
        ("primes", {"e0", "kde", "ar2_walk"}),
        ("oracle", {"e0", "kde", "ar2_walk"}),
        ("e0_gue", {"kde_gue", BAYES}),
        ("carry_gue", {"e0_gue", "carry_reset_gue", "kde_gue", BAYES}),
        ("carry_reset_gue", {"e0_gue", "carry_gue", "kde_gue", BAYES}),
        ("primes_shuffled", {"kde_shuffled"}),
    ],
)
def test_whom_a_run_is_set_against(name, against):
    found = gathered(name)
    assert len(found.against) == len(set(found.against))
    assert set(found.against) == against
    assert found.control_of == RUNS[name].control_of
    assert found.system == RUNS[name].system


def test_other_windows_leave_the_references_out():
    assert gathered("e0_interpolation", windows=np.array([1, 5, 7, 9])).against == ()
    assert set(gathered("carry", windows=TESTED + 1).against) == {"e0", "carry_reset"}


def test_every_comparison_can_be_made():
    measured = {name: gathered(name) for name in RUNS if name != "e0_interpolation"}
    blocks = mdn_runs(measured | reference_runs(), CONFIG, floor=[])
    metrics = {row["metric"] for row in blocks["carry"]["rows"]}
    assert {f"nll_minus_{name}" for name in measured["carry"].against} < metrics


@pytest.mark.parametrize(
    ("name", "words", "never"),
    [
        ("e0", ["window"], ["height", "first zero", "primes"]),
        ("v1", ["window"], ["height", "first zero", "primes"]),
        ("e0_distance", ["window", "coarse height"], ["first zero", "primes"]),
        ("v1_distance", ["window", "coarse height"], ["first zero", "primes"]),
        ("carry", ["first zero on", "coarse height"], ["primes", "window"]),
        ("carry_reset", ["window", "coarse height"], ["first zero", "primes"]),
        ("primes", ["past zeros", "primes", "coarse height"], []),
        ("oracle", ["height t itself"], ["coarse"]),
    ],
)
def test_what_a_likelihood_may_use(name, words, never):
    told = gathered(name).information
    assert all(word in told for word in words)
    assert not any(word in told for word in never)


def test_readings_become_scores_seed_by_seed():
    files = [readings(shift=0.0), readings(shift=0.5)]
    histories = [
        {"code": "c", "provenance": {}, "name": "e0", "best_step": step} for step in (3, 9)
    ]
    found = gathered("e0", files=iter(files), histories=iter(histories), seeds=(4, 7))
    assert found.seeds == (4, 7)
    expected = [each["nll_WT"].mean(axis=1) for each in files]
    np.testing.assert_allclose(found.stacked("nll"), expected)
    np.testing.assert_array_equal(found.windows, TESTED)
    np.testing.assert_array_equal(found.heights_W, TESTED * 100.0)
    assert found.further == {"history": [{"best_step": 3}, {"best_step": 9}]}


def test_references_keep_to_their_own_arrays():
    """`ar1` must not take what is `ar16`'s."""
    found = reference_runs()
    plain = readings()["nll_WT"].mean(axis=1)
    for number, name in enumerate(("kde", "ar1", "ar16", "ar2_walk", "level")):
        np.testing.assert_allclose(found[name].stacked("nll")[0], plain + number)
        assert found[name].information == f"all of {name}"
        assert found[name].further == {"chosen": {"p": 1}}
        assert found[name].seeds is None
    assert found[BAYES].system == "gue"


@pytest.fixture(scope="module")
def gue():
    spacings = gue_spacings(10 * WINDOW, generator=numpy_generator(0, "test"))
    split = split_windows(10, "height", share=1.0)
    return spacings, split, references_of("gue", spacings, split, REFERENCES, window=WINDOW)


def test_gue_has_the_bayes_predictor_on_its_own_test_windows(gue):
    spacings, _, found = gue
    assert set(found) == {"kde_gue", BAYES}
    bayes = found[BAYES]
    assert bayes.chosen == {"context": 3}
    assert "last 3 spacings" in bayes.information
    test = spacings[9 * WINDOW :]
    np.testing.assert_array_equal(bayes.reading["spacings_WN"][0], test.astype(np.float32))
    assert bayes.reading["nll_WT"].shape == (1, WINDOW - 1)
    for i in (0, 1, 2, 3, 80, WINDOW - 2):
        law = predict(test[None, max(0, i - 2) : i + 1])
        nll = -np.log(law.density_at(test[i + 1 : i + 2]))[0]
        assert bayes.reading["nll_WT"][0, i] == pytest.approx(nll, abs=1e-5)


def test_flattened_references_come_back(gue):
    _, split, found = gue
    arrays = flatten(found) | {"windows_W": split.test, "heights_W": np.array([5.0])}
    facts = {n: {"information": r.information, "chosen": r.chosen} for n, r in found.items()}
    back = measured_references(arrays, facts, CONFIG, system="gue")
    for name, reference in found.items():
        nll_W = reference.reading["nll_WT"].astype(float).mean(axis=1)
        np.testing.assert_allclose(back[name].stacked("nll")[0], nll_W)
    assert "err_step@16" in back["kde_gue"].scores[0].metrics
    assert back[BAYES].further["chosen"]["context"] == 3


def test_the_zeros_have_all_references_and_other_surrogates_one():
    spacings = np.random.default_rng(0).gamma(5.0, 1 / 5, 20 * WINDOW)
    split = split_windows(20, "height", share=1.0)
    told = (spacings, split, REFERENCES)
    found = references_of("zeta", *told, window=WINDOW)
    assert set(found) == {"kde", "ar1", "ar2_walk", "level"}
    generator = numpy_generator(0, "references", "zeta")
    again = reference_readings(*told, window=WINDOW, generator=generator)
    for name, reference in found.items():
        for key, values in reference.reading.items():
            np.testing.assert_array_equal(values, again[name].reading[key])
    assert set(references_of("shuffled", *told, window=WINDOW)) == {"kde_shuffled"}
    assert (kde_name("zeta"), kde_name("gue")) == ("kde", "kde_gue")


def test_sampled_sequences_are_raised_and_the_share_is_told():
    """Entry (s, w, h) of file f is 1 + f + s/10 + w/100 + h/1000, but for two below 0."""
    files = []
    for f in range(2):
        grid = np.indices((3, 2, 5)).transpose(1, 2, 3, 0) @ np.array([0.1, 0.01, 0.001])
        files.append({"sampled_SWH": 1.0 + f + grid, "windows_W": np.array([40, 41])})
    files[0]["sampled_SWH"][1, 1, 3] = -0.2
    files[1]["sampled_SWH"][2, 0, 0] = 0.0
    sequences, units, raised = sampled_sequences(iter(files))
    assert sequences.shape == (12, 5)
    assert raised == pytest.approx(2 / 60)
    assert sequences[3, 3] == sequences[10, 0] == LEAST_SPACING > 0
    assert units.tolist() == [40, 41] * 6
    for row in range(12):
        f, s, w = row // 6, row % 6 // 2, row % 2
        assert units[row] == 40 + w
        expected = 1 + f + s / 10 + w / 100 + np.arange(5) / 1000
        kept = sequences[row] > LEAST_SPACING
        np.testing.assert_allclose(sequences[row][kept], expected[kept])
        assert kept.sum() == 5 - (row in (3, 10))
