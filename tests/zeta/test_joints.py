"""Where a surrogate is put together from stretches, long contexts across a joint are not read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from zeta_runs import run_of

from mneme.zeta import surrogates
from mneme.zeta.gather import measured_references, measured_run
from mneme.zeta.joints import after_joint
from mneme.zeta.mdn import mdn_runs
from mneme.zeta.reading_config import MdnConfig

WINDOW = 256
CONFIG = MdnConfig(
    horizons=(10,), context_edges=(1, 2, 256), height_parts=2, pit_bins=4, block=2, resamples=100
)


@pytest.mark.parametrize(
    ("system", "maker", "length"), [("gue", "_bulk", 3328), ("scrambled", "_iaaft", 4096)]
)
def test_joints_are_where_the_surrogate_changes(monkeypatch, system, maker, length):
    """Stretch after stretch is made of one number each: where it changes is a joint."""
    numbers = itertools.count(1.0)
    monkeypatch.setattr(surrogates, maker, lambda *_: np.full(length, next(numbers)))
    count = 48
    made, _ = surrogates.surrogate(
        system,
        np.ones(count * WINDOW),
        np.array([1000.0]),
        size=count * WINDOW,
        generator=np.random.default_rng(0),
    )
    windows = np.arange(1, count)
    changes = made[windows * WINDOW] != made[windows * WINDOW - 1]
    np.testing.assert_array_equal(after_joint(system, windows, WINDOW), changes)
    assert changes.sum() in (2, 3)
    assert not np.diff(made.reshape(count, WINDOW)).any()


@pytest.mark.parametrize("system", ["zeta", "shuffled"])
def test_other_systems_have_none(system):
    assert not after_joint(system, np.arange(60), WINDOW).any()


def readings(windows, far):
    """Long contexts that lie across a joint score `far`, all others 1."""
    joined = (windows % 13 == 0)[:, None]
    return {
        "spacings_WN": np.ones((len(windows), WINDOW)),
        "nll_WT": np.ones((len(windows), WINDOW - 1)),
        "nll_full_WX": np.where(joined, far, 1.0) * np.ones((len(windows), 8)),
        "windows_W": windows,
        "heights_W": windows * 100.0,
    }


@pytest.mark.parametrize(("system", "value", "kept"), [("gue", 1.0, 36), ("shuffled", 1.75, 40)])
def test_long_contexts_across_a_joint_are_left_out(system, value, kept):
    windows = np.arange(12, 52)  # 13, 26, 39 begin a spectrum, and none at the end
    windows[-1] = 52
    runs = {name: run_of(arm, system=system) for name, arm in (("e0", "none"), ("v1", "prefix"))}
    facts = {"kde": {"information": "", "chosen": {}}}
    told = readings(windows, 8.5)
    named = {f"kde/{key}": told[key] for key in ("spacings_WN", "nll_WT", "nll_full_WX")}
    places = {key: told[key] for key in ("windows_W", "heights_W")}
    references = measured_references(named | places, facts, CONFIG, system=system)
    measured = {
        name: measured_run(
            name, runs, [readings(windows, 8.5)], [{}], CONFIG, seeds=(0,), references=references
        )
        for name in runs
    }
    blocks = mdn_runs(measured | references, CONFIG, floor=[])
    for name in ("e0", "v1", "kde"):
        rows = {r["metric"]: r for r in blocks[name]["rows"] if r["seed"] is None}
        assert rows["nll_full"]["value"] == pytest.approx(value)
        assert rows["nll_full"]["n"] == kept
        assert rows["nll"]["n"] == 40
    difference = next(r for r in blocks["v1"]["rows"] if r["metric"] == "nll_full_minus_e0")
    assert (difference["value"], difference["n"]) == (0.0, kept)


def test_a_run_of_joined_windows_alone_has_no_long_contexts():
    runs = {"e0": run_of("none", system="gue")}
    told = readings(np.array([13, 26, 39, 52]), 8.5)
    found = measured_run("e0", runs, [told], [{}], CONFIG, seeds=(0,), references={})
    assert "nll_full" not in found.scores[0].metrics
    assert "nll" in found.scores[0].metrics
