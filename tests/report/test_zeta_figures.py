"""Figures of room `zeta` draw what the rows and curves say, and leave out what is missing."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from mneme.core.artefacts import save_figure
from mneme.core.headline import run_block
from mneme.report.diagnostics import diagnostics_figure
from mneme.report.kernel import kernel_figure
from mneme.report.slot_ablation import (
    EFFECT_EDGES,
    EFFECT_NAMES,
    ROLLOUT_EDGES,
    ROLLOUT_NAMES,
    slot_ablation_figure,
)
from mneme.report.zeta import arms_of, mdn_figure, pairs_of, references_of
from mneme.report.zeta_training import training_figure
from mneme.stats.rows import Row
from mneme.zeta.ablation_report import EFFECT_BANDS, ROLLOUT_BANDS
from mneme.zeta.kernel_report import KERNELS, sine_kernel


def row(metric, value, *, width=0.01, **more):
    ends = {} if value is None else {"low": value - width, "high": value + width}
    reason = "undefined here" if value is None else None
    return Row(metric=metric, value=value, n=5, reason=reason, **ends, **more)


def panel(figure, title, *, nth=0):
    return [axis for axis in figure.axes if axis.get_title(loc="left") == title][nth]


def points(axis, marker):
    return [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in axis.get_lines()
        if line.get_marker() == marker
    ]


def starts(axis):
    """Return where every line that has a point starts."""
    return [float(line.get_xdata()[0]) for line in axis.get_lines() if len(line.get_xdata())]


def names(axis):
    return [text.get_text() for text in axis.get_yticklabels()]


# --- slot ablation


def ablation_runs():
    rows = [
        row(f"{metric}@{kind}@{slot}", value + place)
        for metric, value in (("eff", 1.5), ("rollout_effect", -0.5), ("nll_change", 0.1))
        for kind in ("zero", "mean")
        for place, slot in enumerate(("0", "1", "all"))
    ]
    rows += [row("err_step_4_change@zero@0", 0.1), row("err_step_30_change@zero@0", 0.2)]
    rows += [row("rollout_effect@retrained@all", 4.0), row("rollout_effect@zero", None)]
    rows += [row("eff_percent@zero", 2.5), row("mem_entropy", 0.6)]
    other = [row("eff_percent@zero", 0.5), row("mem_entropy", None)]
    return {"v1": run_block(rows), "film": run_block(other), "e2": run_block([])}


def test_slots_and_all_runs_are_drawn_where_their_rows_are():
    published = {"v1": {"eff_percent": 3.45, "rollout_effect": 0.16}}
    figure = slot_ablation_figure(ablation_runs(), published, focus=("v1", "gone"))
    effect = panel(figure, "v1: does it move the next step?")
    assert names(effect) == ["slot 0", "slot 1", "all slots"]
    assert points(effect, "o") == [(1.5, -0.2), (2.5, 0.8), (3.5, 1.8)]
    rollout = panel(figure, "Does it help a rollout?")
    assert points(rollout, "X") == [(4.0, pytest.approx(2.4))]
    assert "4 steps" in rollout.get_xlabel()
    long = panel(figure, "... a long rollout?")
    assert "30 steps" in long.get_xlabel()
    assert points(long, "o") == [(0.2, -0.2)]
    whole = panel(figure, "Every run: the slot that moves most")
    assert names(whole) == ["v1", "e2", "film"]
    assert (2.5, -0.2) in points(whole, "o")
    assert (0.5, 1.8) in points(whole, "o")
    assert (3.45, 0.0) in points(whole, "o"), "the published point is drawn"
    undefined = panel(figure, "Does it help a rollout?", nth=1)
    assert points(undefined, "o") == [(0.16, 0.0)], "an undefined value leaves a gap"
    entropy = panel(figure, "Are some slots attended more?")
    assert points(entropy, "o") == [(0.6, 0.0)]
    assert math.log(2) in starts(entropy), "the largest entropy of two slots"


def test_the_shaded_bands_are_the_verdicts_bands():
    for bands, edges, words in (
        (EFFECT_BANDS, EFFECT_EDGES, EFFECT_NAMES),
        (ROLLOUT_BANDS, ROLLOUT_EDGES, ROLLOUT_NAMES),
    ):
        assert tuple(bands) == words
        assert tuple(bands.values()) == edges[:-1]
    figure = slot_ablation_figure(ablation_runs(), {}, focus=("v1",))
    axis = panel(figure, "v1: does it move the next step?")
    spans = sorted(patch.get_x() for patch in axis.patches)
    assert spans == [0, 1, 3, 10, 30]
    assert {text.get_text() for text in axis.texts} >= set(EFFECT_NAMES)


# --- mdn


def curves(value):
    band = {"value": [value, None], "low": [value - 1, None], "high": [value + 1, None]}
    return {
        "nll_by_context": {"first": [1, 4], "last": [1, 9], **band},
        "nll_by_height": {"height": [1.0e6, 1.1e6], **band},
        "pit": {"edges": [0.0, 0.5, 1.0], "share": [0.4, 0.6]},
        "error_by_horizon": {"horizon": [1, 2], "err_step": band, "err_cum": band},
    }


def mdn_runs():
    def block(nll, system="zeta", seeds=(0,), rows=()):
        told = [row("nll", nll), row("nll_full", nll - 0.4), row("pit_ks", 0.02), *rows]
        return run_block(
            told, system=system, seeds=None if seeds is None else list(seeds), curves=curves(nll)
        )

    gains = [row("nll_minus_e0", -2.9), row("nll_minus_e0@x", 5.0)]
    floor = run_block(
        [row("nll", 0.43)],
        system="sine process",
        seeds=None,
        curves={"nll_by_context": {"first": [0, 1, 2], "last": [0, 1, 2], "value": [5, 4, 3]}},
    )
    return {
        "sine_floor": floor,
        "primes": block(-3.5, rows=gains),
        "e0": block(-0.6),
        "kde": block(0.5, seeds=None),
        "ar1": block(0.46, seeds=None),
        "e0_gue": block(0.44, "gue", rows=[row("nll_minus_floor", 0.005)]),
    }


def test_arms_and_references_are_told_apart():
    runs = mdn_runs()
    assert arms_of(runs) == ["e0", "primes"]
    assert references_of(runs) == ["kde", "ar1"]


def test_likelihoods_are_drawn_against_floor_and_published():
    figure = mdn_figure(mdn_runs(), {"e0": {"nll": -0.5721}})
    axis = panel(figure, "How likely is what came?")
    assert [name.split(":")[0] for name in names(axis)] == ["kde", "ar1", "e0", "primes"]
    filled = points(axis, "o")
    for place, value in enumerate((0.5, 0.46, -0.6, -3.5)):
        assert (value, place - 0.12) in filled
    assert (-0.5721, 1.88) in filled
    assert (-3.9, 3.16) in points(axis, "D")
    assert 0.43 in starts(axis), "the floor"
    gain = panel(figure, "What does it add?")
    assert names(gain) == ["primes − e0", "e0_gue − floor"]
    assert points(gain, "o") == [(-2.9, 0.0), (0.005, 1.0)]
    assert gain.get_xlim()[0] < -2.9


def test_a_pair_is_drawn_once_and_references_only_where_nothing_else_is():
    def block(*others, system="zeta", seeds=(0,)):
        rows = [row(f"nll_minus_{other}", -0.1) for other in others]
        return run_block(rows, system=system, seeds=list(seeds) or None)

    runs = {
        "carry": block("carry_reset", "e0", "kde"),
        "carry_reset": block("carry", "e0", "kde"),
        "e0": block("kde"),
        "kde": block(seeds=()),
        "primes_gue": block("floor", "kde", system="gue"),
        "lone": block("kde", system="shuffled"),
    }
    real, controls = pairs_of(runs)
    assert [pair[:2] for pair in real] == [
        ("carry", "carry_reset"),
        ("carry", "e0"),
        ("carry_reset", "e0"),
        ("e0", "kde"),
    ]
    assert [pair[:2] for pair in controls] == [("primes_gue", "floor"), ("lone", "kde")]


def test_blocks_elsewhere_stand_by_height_and_untrained_ones_apart():
    def read(values):
        return [row(f"nll_transfer@{block}", value).as_dict() for block, value in values.items()]

    facts = {
        "far": {"first_height": 1.0e8, "inside_training": False},
        "near": {"first_height": 22219.6, "inside_training": True},
    }
    runs = mdn_runs()
    runs["primes"]["rows"] += read({"near": -9.5, "far": 18.0})
    runs["primes"]["transfer"] = facts
    runs["kde"]["rows"] += read({"far": 0.5})
    axis = panel(mdn_figure(runs, {}), "Does it hold elsewhere?")
    assert [text.get_text() for text in axis.get_xticklabels()] == ["2.2e4", "1e8"]
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in axis.get_lines()]
    assert drawn[:2] == [([1], [0.5]), ([0, 1], [-9.5, 18.0])]
    assert drawn[2][0] == [0.5, 0.5], "where what was not trained on begins"
    assert axis.texts[0].get_text() == "1e8: kde 0.500\n… primes 18.0"
    titles = [a.get_title(loc="left") for a in mdn_figure(mdn_runs(), {}).axes]
    assert "Does it hold elsewhere?" not in titles, "nothing was read elsewhere"


def test_curves_are_the_blocks_curves():
    figure = mdn_figure(mdn_runs(), {})
    context = panel(figure, "What is a longer past worth?")
    drawn = {line.get_label(): line for line in context.get_lines()}
    line = drawn["primes: prime memory"]
    assert list(line.get_xdata()) == [1, 6]
    assert line.get_ydata()[0] == -3.5
    assert np.isnan(line.get_ydata()[1]), "an undefined value leaves a gap"
    assert list(drawn["GUE floor (exact)"].get_ydata()) == [4, 3], "context 0 has no place on a log"
    height = panel(figure, "Does it last higher up?").get_lines()[0]
    assert list(height.get_xdata()) == [1.0, 1.1]
    for title in ("How far off is a step of a rollout?", "How far off is their sum?"):
        labels = {line.get_label() for line in panel(figure, title).get_lines()}
        assert labels == {"kde", "ar1", "e0: no memory", "primes: prime memory"}
    pit = panel(figure, "Is it as sure as it should be?")
    assert [patch.get_data().values.tolist() for patch in pit.patches] == [[0.8, 1.2]] * 2


def test_training_is_the_mean_of_seeds_where_all_have_it():
    points_of = [
        [{"step": 10, "val_nll": 1.0, "eff_percent": 2.0}, {"step": 20, "val_nll": 0.5}],
        [{"step": 10, "val_nll": 3.0, "eff_percent": 4.0}],
    ]
    figure = training_figure({"v1": [{"points": seed} for seed in points_of]})
    (line,) = panel(figure, "Does it converge?").get_lines()
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([10], [2.0])
    (line,) = panel(figure, "Do slots gain weight?").get_lines()
    assert list(line.get_ydata()) == [3.0]
    assert not panel(figure, "Do rollouts follow?").get_lines()


# --- kernel


def kernel_runs():
    r = np.linspace(0.1, 3, 12)
    band = {key: (0.1 * sine_kernel(r) + shift).tolist() for key, shift in BAND}
    front = [
        {"formula": "(a + r)", "complexity": 3, "r_squared": 0.5, "r_squared_held_out": 0.4},
        {"formula": "exp(r)", "complexity": 7, "r_squared": 0.95, "r_squared_held_out": 0.90},
        {"formula": "sin(r)", "complexity": 9, "r_squared": 0.96, "r_squared_held_out": 0.905},
    ]
    rows = [row(f"{name}_r_squared", 0.9 - 0.1 * n) for n, name in enumerate(KERNELS)]
    block = run_block(
        [*rows, row("oscillation_r_squared", 0.1)],
        distance={"r": r.tolist(), **band, **{name: k(r).tolist() for name, k in KERNELS.items()}},
        lag={"lag": list(range(12)), **band},
        heads=[
            {"layer": 0, "head": h, "value": band["value"], "sine_kernel_r_squared": 0.2 + h / 10}
            for h in range(2)
        ],
        formulas={"distance": front, "lag": []},
    )
    return {"e0": block, "e0_gue": run_block([row("sine_kernel_r_squared", 0.3)])}


BAND = (("value", 0.01), ("low", 0.0), ("high", 0.02))


def test_attention_is_drawn_with_every_kernel_and_the_simplest_good_formula():
    figure = kernel_figure(kernel_runs(), focus=("e0",))
    axis = panel(figure, "e0: attention and distance")
    assert len(axis.get_lines()) == 1 + len(KERNELS)
    answers = {a.get_title(loc="left"): a.texts[0].get_text() for a in figure.axes if a.texts}
    assert answers["Which head is closest?"] == "layer 0, head 1: R² 0.30"
    assert answers["What formula says it?"].startswith("exp(r), R² 0.900")
    every = panel(figure, "Every run: which kernel?")
    assert names(every) == ["e0", "e0_gue"]
    assert (0.9, -0.2) in points(every, "o")
    assert (0.3, 0.8) in points(every, "o")
    assert points(panel(figure, "Are the sine kernel's zeros there?"), "o") == [(0.1, 0.0)]


# --- diagnostics


def test_diagnostics_are_the_blocks_matrices_and_rows():
    matrix = [[0.3, -0.2], [-0.2, 0.4]]
    rows = [
        *(row(f"slot_mass@layer{layer}@{m}", 0.1 * (layer + 1)) for layer in (0, 1) for m in "01"),
        *(row(f"teacher_forced_effect@{m}", 1.0 + int(m)) for m in "01"),
        *(row(f"rollout_effect@{m}", -1.0 - int(m)) for m in "01"),
        row("permutation_effect", 7.0),
    ]
    keys = ("similarity", "gradient_correlation", "interaction")
    block = run_block(rows, **dict.fromkeys(keys, matrix))
    figure = diagnostics_figure({"v1": block, "film": run_block([])}, focus=("v1", "gone"))
    for title in ("Are slots alike?", "Do they learn alike?", "Do they stand in for each other?"):
        (image,) = panel(figure, title).get_images()
        assert np.asarray(image.get_array()).tolist() == matrix
    mass = panel(figure, "v1: where does attention go?")
    heights = [round(patch.get_height(), 9) for patch in mass.patches]
    assert heights == [0.1, 0.1, 0.2, 0.2]
    both = panel(figure, "One step and rollout")
    assert points(both, "o") == [(1.0, -1.0), (2.0, -2.0)]


# --- all of them


def test_nothing_at_all_still_draws():
    assert slot_ablation_figure({}, {}, focus=("v1",)).axes
    assert mdn_figure({}, {}).axes
    assert training_figure({}).axes
    assert kernel_figure({}, focus=("e0",)).axes
    assert diagnostics_figure({}, focus=("v1",)).get_suptitle()


def test_saved_twice_is_the_same_file(tmp_path):
    for name in ("one", "two"):
        figure = slot_ablation_figure(ablation_runs(), {}, focus=("v1",))
        save_figure(figure, svg=tmp_path / f"{name}.svg", png=tmp_path / f"{name}.png")
    for kind in ("svg", "png"):
        one, two = (tmp_path / f"{name}.{kind}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_reports_import_no_torch():
    code = (
        "import sys, mneme.report.zeta, mneme.report.zeta_training, mneme.report.kernel, "
        "mneme.report.slot_ablation, mneme.report.diagnostics; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
