"""Figure of the memory grid draws what the rows say, and leaves out what is missing."""

from __future__ import annotations

import numpy as np
import pytest

from mneme.core.artefacts import save_figure
from mneme.core.headline import run_block
from mneme.report.ttt_grid import families_of, ttt_grid_figure
from mneme.stats.rows import Row

RATIOS, REPEATS = [0.5, 0.9], [20, 50]
PUBLISHED = {"original.percent": [0.33, 0.56], "original_adapter.percent": [0.21, 0.31], "x": "y"}


def row(metric, value, *, width=0.01, seed=None):
    if value is None:
        return Row(metric=metric, value=None, n=5, reason="see another cell")
    return Row(metric=metric, value=value, low=value - width, high=value + width, n=5, seed=seed)


def block(net, worth, *, compared=(), refused=(), sweep=(), source=False):
    """Return a block whose gain in cell (ratio, repeats) is worth x place."""
    rows = []
    kinds = {"percent": 1.0, "percent_shuffled": 0.5, "percent_other": -0.25}
    for metric, share in kinds.items():
        for place, (ratio, repeats) in enumerate((a, r) for a in RATIOS for r in REPEATS):
            value = None if (ratio, repeats) in refused else worth * share * (place + 1)
            rows.append(row(f"{metric}@{ratio:g}x{repeats}", value))
        rows.append(row(metric, worth * share))
        if source:
            rows.append(row(f"source_{metric}", worth * share))
    for kind, value in (("sentences", 0.1), ("shuffled", 0.2), ("other", 0.3)):
        rows += [row(f"delta_minus_{kind}", value), row(f"delta_minus_{kind}", value, seed=0)]
    rows.append(row("harm", -0.05))
    more = {"compared_with": list(compared), "adapt_ratios": RATIOS, "repeats": REPEATS}
    return run_block(rows, net=net, recipe="plays", seeds=[0], sweep=list(sweep), **more)


def point(rate, chunk, value, *, reason=None):
    told = {"learning_rate": rate, "chunk": chunk, "reason": reason}
    if reason:
        return {**told, "delta": None, "delta_minus_other": None}
    ends = {"value": value, "low": value - 0.1, "high": value + 0.1}
    return {**told, "delta": ends, "delta_minus_other": {**ends, "value": value - 0.05}}


@pytest.fixture(scope="module")
def runs():
    sweep = [point(r, c, r * c) for c in (8, 16) for r in (0.1, 1.0)]
    return {
        "plays": block("base", 20.0, sweep=[*sweep, point(0.1, 99, 0, reason="too long")]),
        "plays_adapter": block("adapter", 15.0, compared=["plays"]),
        "plays_untrained": block("untrained", 5.0, compared=["plays"]),
        "original": block("base", 0.4, refused=[(0.5, 50), (0.9, 50)], source=True),
        "original_adapter": block("adapter", 0.3, compared=["original"], source=True),
    }


@pytest.fixture(scope="module")
def figure(runs):
    return ttt_grid_figure(runs, PUBLISHED)


def panels(figure, title):
    return [axis for axis in figure.axes if axis.get_title(loc="left") == title]


def drawn(axis):
    (image,) = axis.get_images()
    return np.asarray(image.get_array()), image.norm.vmax


def cell_texts(axis):
    return [
        text.get_text() for text in axis.texts if text.get_text() and "all" not in text.get_text()
    ]


def points_of(axis):
    return [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in axis.get_lines()
        if line.get_marker() == "o"
    ]


def test_every_trained_net_has_its_family(runs):
    assert families_of(runs) == [
        {"base": "plays", "adapter": "plays_adapter", "untrained": "plays_untrained"},
        {"base": "original", "adapter": "original_adapter"},
    ]


def test_maps_show_every_cell_under_one_scale_a_model(figure):
    (own,) = panels(figure, "plays: trained, own context")
    values, limit = drawn(own)
    assert values.tolist() == [[20, 40], [60, 80]]
    assert limit == 80
    assert cell_texts(own) == ["+20.00", "+40.00", "+60.00", "+80.00"]
    other = panels(figure, "another prompt")[0]
    assert drawn(other) == (pytest.approx(np.array([[-5, -10], [-15, -20]])), 80)
    (adapter, _) = panels(figure, "adapter, own context")
    assert drawn(adapter)[1] == 80
    assert len(panels(figure, "untrained, own context")) == 1


def test_refused_cells_say_so(figure):
    (own,) = panels(figure, "original: trained, own context")
    values, limit = drawn(own)
    assert np.isnan(values[:, 1]).all()
    assert limit == pytest.approx(1.2)
    assert cell_texts(own) == ["+0.40", "refused", "+1.20", "refused"]


def test_own_part_and_harm_are_drawn(figure):
    (axis,) = panels(figure, "Is it this context?")
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names[:4] == [
        "plays: own − sentences shuffled",
        "plays: own − tokens shuffled",
        "plays: own − another",
        "plays: harm by another",
    ]
    assert points_of(axis)[:4] == [(0.1, 0), (0.2, 1), (0.3, 2), (-0.05, 3)]
    assert len(names) == 16


def test_published_ranges_stand_beside_the_sources_measure(figure):
    (axis,) = panels(figure, "The source's own measure")
    assert points_of(axis) == [(0.4, 0), (0.2, 1), (-0.1, 2), (0.3, 3), (0.15, 4), (-0.075, 5)]
    spans = [c.get_paths()[0].get_extents() for c in axis.collections]
    assert [(s.x0, s.x1) for s in spans] == [(0.33, 0.56), (0.21, 0.31)]
    assert [(s.y0 + s.y1) / 2 for s in spans] == pytest.approx([0, 3])


def test_the_sweep_is_a_line_a_chunk(figure):
    (axis,) = panels(figure, "plays: how strong an inner loop?")
    solid = [line for line in axis.get_lines() if line.get_marker() == "o"]
    assert [list(line.get_ydata()) for line in solid] == [[0.8, 8.0], [1.6, 16.0]]
    assert [list(line.get_xdata()) for line in solid] == [[0.1, 1.0]] * 2
    dashed = [list(line.get_ydata()) for line in axis.get_lines() if line.get_linestyle() == "--"]
    assert [y for y in dashed if len(y)] == [pytest.approx([0.05, 0.05])] * 2
    assert axis.get_xscale() == "log"
    assert any("16.0 nats at lr 1, chunk 16" in text.get_text() for text in axis.texts)


def test_what_is_missing_leaves_its_place_out(runs, tmp_path):
    alone = {"original": block("base", 0.4)}
    figure = ttt_grid_figure(alone, {})
    (axis,) = panels(figure, "The source's own measure")
    assert points_of(axis) == []
    assert not panels(figure, "adapter, own context")
    save_figure(figure, svg=tmp_path / "a.svg", png=tmp_path / "a.png")
    assert (tmp_path / "a.svg").stat().st_size > 1000
    ttt_grid_figure({}, {})
    refused = [(a, r) for a in RATIOS for r in REPEATS]
    broken = {"plays": block("base", 1.0, refused=refused, sweep=[point(1, 9, 0, reason="no")])}
    figure = ttt_grid_figure(broken, PUBLISHED)
    (axis,) = panels(figure, "plays: how strong an inner loop?")
    assert any("no setting" in text.get_text() for text in axis.texts)
