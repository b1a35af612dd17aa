"""Figures draw what the rows say, leave out what is missing, and come out the same twice."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mneme.core.artefacts import save_figure
from mneme.core.headline import run_block
from mneme.report.fatigue import PANELS, fatigue_figure
from mneme.report.routing import hysteresis_figure
from mneme.report.training import adapters_figure, mixer_figure
from mneme.stats.rows import Row

PAIR = ("shakespeare", "python")


def row(metric: str, value: float | None, **more) -> Row:
    ends = {} if value is None else {"low": value - 0.1, "high": value + 0.1}
    reason = "undefined here" if value is None else None
    return Row(metric=metric, value=value, n=5, reason=reason, **ends, **more)


def hysteresis_runs() -> dict:
    bands = {"position": list(range(24)), "mean": [0.5] * 24, "low": [0.4] * 24, "high": [0.6] * 24}
    rows = [
        *(row(f"switch_lag_BA@{t}", v) for t, v in ((0.5, 1.0), (0.9, 4.0), (0.99, None))),
        row("switch_lag_BA", 4.0),
        row("return_gap_cosine_minus_aa", 0.2),
        row("switch_lag_BA_minus_aa", 4.0),
    ]
    return {"ours": run_block(rows, bands=bands), "aa": run_block([row("switch_lag_BA@0.9", 0.0)])}


def lines(figure) -> list[tuple[list[float], list[float]]]:
    return [
        (np.asarray(line.get_xdata(), float).tolist(), np.asarray(line.get_ydata(), float).tolist())
        for axis in figure.axes
        for line in axis.get_lines()
    ]


def test_lag_curve_draws_the_rows_and_leaves_a_gap_for_the_undefined():
    drawn = lines(hysteresis_figure(hysteresis_runs(), PAIR))
    curve = [y for x, y in drawn if x == [0.5, 0.9, 0.99]]
    assert len(curve) == 1
    assert curve[0][:2] == [1.0, 4.0]
    assert np.isnan(curve[0][2]), "an undefined value must not be drawn as a number"
    assert ([0.2], [0]) in drawn, "the contrast with aa is a point of the forest"


def test_dwell_curves_draw_the_rows_in_order_of_dwell():
    rows = [row(f"switch_lag@{n}", v) for n, v in ((64, 3.0), (16, 1.0), (256, 5.0))]
    rows.append(row("switch_lag@whole@16", 9.0))
    published = {"mistral_7b_fast": {"dwell_tokens": [22, 50], "tail_area_32": [2.8, 5.5]}}
    figure = fatigue_figure({"ours": run_block(rows)}, published, PAIR)
    drawn = lines(figure)
    assert ([16.0, 64.0, 256.0], [1.0, 3.0, 5.0]) in drawn
    assert ([22.0, 50.0], [2.8, 5.5]) in drawn, "published points are drawn"
    assert len(figure.axes) == len(PANELS) + 1, "a panel each, and the legend's"


def test_loss_matrix_and_forgetting():
    losses = {("base", "a"): 4.0, ("base", "b"): 3.0, ("a", "a"): 3.5, ("a", "b"): 3.1}
    losses |= {("b", "a"): 3.8, ("b", "b"): 2.5}
    rows = [row(f"loss.{adapter}.{domain}", v) for (adapter, domain), v in losses.items()]
    figure = adapters_figure({"sleep": run_block([*rows, row("forgetting.a", 0.3)])}, ("a", "b"))
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert {"4.000", "3.500\n(−0.500)", "3.800\n(−0.200)", "2.500\n(−0.500)"} <= texts
    image = np.asarray(figure.axes[0].get_images()[0].get_array())
    assert image[1].tolist() == pytest.approx([-0.5, 0.1])
    assert ([0.3], [0]) in lines(figure)


def test_mixer_curves_are_means_over_seeds():
    curves = {"validation_nll": [[0.6, 0.2], [0.8, 0.4]]}
    block = run_block([row("token_accuracy", 0.98)], curves=curves)
    silent = run_block([row("token_accuracy", 0.5)], curves={"validation_nll": [[], []]})
    drawn = lines(mixer_figure({"ours": block, "untrained": silent}, ("a", "b")))
    assert any(x == [1.0, 2.0] and y == pytest.approx([0.7, 0.3]) for x, y in drawn)
    assert ([0.98], [0]) in drawn


def test_nothing_at_all_still_draws():
    assert hysteresis_figure({}, PAIR).axes
    assert fatigue_figure({}, {}, PAIR).axes
    assert mixer_figure({}, ("a", "b")).axes
    assert adapters_figure({}, ("a", "b")).axes


def test_saved_twice_is_the_same_file(tmp_path):
    for name in ("one", "two"):
        figure = hysteresis_figure(hysteresis_runs(), PAIR)
        save_figure(figure, svg=tmp_path / f"{name}.svg", png=tmp_path / f"{name}.png")
    for kind in ("svg", "png"):
        one, two = (tmp_path / f"{name}.{kind}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_reports_import_no_torch():
    code = (
        "import sys, mneme.report.routing, mneme.report.fatigue, mneme.report.training, "
        "mneme.report.summary; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
