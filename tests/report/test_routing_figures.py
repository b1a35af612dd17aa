"""Figures of room `routing` on measured blocks: planted traces through the room's own functions."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
from planted import PAIR, noisy_gate, protocol_of, runs_of, trace_of

from mneme.core.artefacts import save_figure
from mneme.core.headline import run_block
from mneme.report.fatigue import PANELS, fatigue_figure
from mneme.report.routing import MIXER_NOTES, UNROUTED, hysteresis_figure
from mneme.report.style import OURS, row_of, told
from mneme.report.training import adapters_figure, mixer_figure
from mneme.routing.fatigue import fatigue
from mneme.routing.hysteresis import hysteresis
from mneme.routing.published import PUBLISHED as ALL_PUBLISHED
from mneme.stats.rows import Row

PUBLISHED = ALL_PUBLISHED["fatigue"]

DOMAINS = ("shakespeare", "python")
DWELL = (16, 24, 40, 64)


@pytest.fixture(scope="module")
def measured():
    protocol, runs = protocol_of(tuples=5, dwell_tokens=DWELL, resamples=100), runs_of()
    gate = noisy_gate(protocol, seeds=2, texts=5)
    return {
        phase.__name__: phase(
            trace_of(runs, protocol, gate, phase=phase.__name__),
            runs,
            protocol,
            pair=PAIR,
            seeds=(0, 1),
        )
        for phase in (hysteresis, fatigue)
    }


def value(runs, run, metric, key="value"):
    (row,) = [r for r in runs[run]["rows"] if r["metric"] == metric and r["seed"] is None]
    return row[key]


def panel(figure, title):
    (axis,) = [axis for axis in figure.axes if axis.get_title(loc="left") == title]
    return axis


def curve(axis, name):
    (line,) = [line for line in axis.get_lines() if line.get_label() == name]
    return list(line.get_xdata()), list(line.get_ydata())


def test_trajectories_are_the_bands(measured):
    runs = measured["hysteresis"]
    figure = hysteresis_figure(runs, DOMAINS)
    axis = panel(figure, "Where does the router's weight lie?")
    for run, name in (("ours", "ours: real: A → B → A"), ("reset", "reset: second A alone")):
        bands = runs[run]["bands"]
        assert curve(axis, name) == (bands["position"], bands["mean"])
    x, _ = curve(panel(figure, "How does it come back?"), "ours: real: A → B → A")
    assert (x[0], x[128]) == (-128, 0)


def test_lag_curve_is_the_rows_of_every_run(measured):
    runs = measured["hysteresis"]
    axis = panel(hysteresis_figure(runs, DOMAINS), "How long until A has the weight θ?")
    thetas = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
    for run, name in (("ours", "ours: real: A → B → A"), ("bab", "bab: B → A → B")):
        expected = [value(runs, run, f"switch_lag_BA@{theta:g}") for theta in thetas]
        assert curve(axis, name) == (thetas, expected)


def test_forests_hold_the_contrasts_and_leave_out_routers_that_never_switch(measured):
    runs = measured["hysteresis"]
    figure = hysteresis_figure(runs, DOMAINS)
    axis = panel(figure, "Is it B that the router remembers?")
    names = [text.get_text().split("\n")[0] for text in axis.get_yticklabels()]
    assert set(names) == {
        f"− {name}" for name in (set(runs) - {"ours", "attention", "ema", "ema_oracle", *UNROUTED})
    }
    points = {line.get_ydata()[0]: line for line in axis.get_lines() if line.get_marker() == "o"}
    for place, name in enumerate(names):
        if name == "− bab":
            assert place not in points, "no reference, so no point"
            continue
        expected = value(runs, "ours", f"return_gap_cosine_minus_{name.removeprefix('− ')}")
        assert list(points[place].get_xdata()) == [expected]
    mixers = figure.axes[-1]
    assert "never back in 100 % of texts" in " ".join(text.get_text() for text in mixers.texts)


def test_every_mixer_has_its_line(measured):
    runs = measured["hysteresis"]
    axis = panel(hysteresis_figure(runs, DOMAINS), "Which router remembers?")
    points = [line for line in axis.get_lines() if line.get_marker() == "o"]
    expected = [value(runs, mixer, "return_gap_cosine_minus_aa") for mixer in MIXER_NOTES]
    assert [line.get_xdata()[0] for line in points] == expected
    assert [line.get_color() == OURS for line in points] == [m == "ours" for m in MIXER_NOTES]


def test_dwell_curves_bands_slopes_and_the_source_s_points(measured):
    runs = measured["fatigue"]
    tests = [(22, 0.7), (50, 2.0)]
    rows = [
        Row(metric=f"tests[{i}].{key}", value=v, n=1, seed=0)
        for i, (n, tail) in enumerate(tests)
        for key, v in (("python_block_length", n), ("tail_area_32", tail))
    ]
    rows += [
        Row(metric=f"tests[2].{key}", value=v, n=1, seed=0)
        for key, v in (("python_block_length", 96), ("tail_area_32", 88.0))
    ]
    figure = fatigue_figure({**runs, "original": run_block(rows)}, PUBLISHED, DOMAINS)
    for wanted in PANELS:
        axis = panel(figure, wanted.question)
        x, y = curve(axis, "ours: real: A → B → A")
        assert x == list(DWELL)
        for n, drawn in zip(DWELL, y, strict=True):
            expected = value(runs, "ours", f"{wanted.metric}@{n}")
            assert np.isnan(drawn) if expected is None else drawn == expected
        seen = [v for v in y if np.isfinite(v)]
        assert axis.get_ylim()[0] <= min(seen) <= max(seen) <= axis.get_ylim()[1], "none cut off"
        row = row_of(runs, "ours", f"{wanted.metric}.per_doubling")
        if row is not None:
            assert f"ours, a doubling: {told(row)}" in axis.texts[0].get_text()
    axis = panel(figure, "How much is left of B?")
    published = PUBLISHED["mistral_7b_fast"]
    assert curve(axis, "published (Mistral-7B)")[1] == published["tail_area_32"]
    squares = [
        line for line in axis.get_lines() if line.get_marker() == "s" and len(line.get_xdata())
    ]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in squares] == tests
    assert "↑ 88.0" in [text.get_text() for text in axis.texts], "beyond the scale it is written"


def test_the_band_is_the_interval(measured):
    runs = measured["fatigue"]
    axis = panel(fatigue_figure({"ours": runs["ours"]}, {}, DOMAINS), "How long to leave B?")
    (band,) = axis.collections
    corners = {(round(x, 9), round(y, 9)) for x, y in band.get_paths()[0].vertices}
    for n in DWELL:
        for end in ("low", "high"):
            assert (n, round(value(runs, "ours", f"switch_lag@{n}", end), 9)) in corners


@pytest.mark.parametrize("phase", ["hysteresis", "fatigue"])
def test_a_run_that_is_gone_leaves_the_others_as_they_were(measured, phase, monkeypatch):
    for module in ("fatigue", "routing"):  # laying out takes a second a figure and moves no curve
        monkeypatch.setattr(f"mneme.report.{module}.settled", lambda figure: figure)

    def draw(runs):
        if phase == "hysteresis":
            return hysteresis_figure(runs, DOMAINS)
        return fatigue_figure(runs, PUBLISHED, DOMAINS)

    runs = measured[phase]
    for gone in runs:
        axis = draw({name: block for name, block in runs.items() if name != gone}).axes[0]
        names = {line.get_label().split(":")[0] for line in axis.get_lines()}
        assert gone not in names
        assert "ours" in names or gone == "ours"


def test_null_values_leave_gaps(measured):
    runs = copy.deepcopy(measured["fatigue"])
    for row in runs["ours"]["rows"]:
        if row["metric"] == "switch_lag@24":
            row |= {"value": None, "low": None, "high": None, "reason": "for the test"}
    axis = panel(fatigue_figure(runs, {}, DOMAINS), "How long to leave B?")
    _, y = curve(axis, "ours: real: A → B → A")
    assert [bool(np.isnan(v)) for v in y] == [False, True, False, False]


def test_the_mix_is_set_against_what_could_replace_it():
    rows = [
        Row(metric=f"held_out_loss.{domain}_minus_{other}", value=v, low=v - 1, high=v + 1, n=4)
        for v, (domain, other) in enumerate((d, o) for o in ("base", "known") for d in DOMAINS)
    ]
    axis = panel(mixer_figure({"mixed": run_block(rows)}, DOMAINS), "Does mixing pay?")
    points = [
        (line.get_ydata()[0], line.get_xdata()[0])
        for line in axis.get_lines()
        if line.get_marker() == "o"
    ]
    assert points == [(0, 0.0), (1, 1.0), (4, 2.0), (5, 3.0)]  # no rows for the even mix


def test_losses_that_are_missing_leave_cells_empty():
    rows = [Row(metric="loss.base.python", value=3.0, n=2)]
    figure = adapters_figure({"none": run_block(rows)}, DOMAINS)
    shade = np.ma.filled(figure.axes[0].get_images()[0].get_array(), np.nan)
    assert np.isfinite(shade).tolist() == [[False, True], [False, False], [False, False]]
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text()] == ["3.000"]
    assert adapters_figure({}, DOMAINS).axes


def test_svg_keeps_its_text_and_is_the_same_from_fresh_figures(measured, tmp_path):
    makers = {
        "hysteresis": lambda: hysteresis_figure(measured["hysteresis"], DOMAINS),
        "fatigue": lambda: fatigue_figure(measured["fatigue"], PUBLISHED, DOMAINS),
    }
    for name, make in makers.items():
        files = [tmp_path / f"{name}{i}" for i in (1, 2, 3)]
        figure = make()
        for path, drawn in zip(files, (figure, figure, make()), strict=True):
            save_figure(drawn, svg=path.with_suffix(".svg"), png=path.with_suffix(".png"))
        for kind in (".svg", ".png"):
            first, again, fresh = (path.with_suffix(kind).read_bytes() for path in files)
            assert first == again == fresh
        svg = files[0].with_suffix(".svg").read_text(encoding="utf-8")
        assert re.search(r"<text[^>]*>[^<]*does", svg), "text must stay text"
        assert "<dc:date>" not in svg


def test_no_label_is_cut_and_no_panels_overlap(measured):
    figures = (
        hysteresis_figure(measured["hysteresis"], DOMAINS),
        fatigue_figure(measured["fatigue"], PUBLISHED, DOMAINS),
    )
    for figure in figures:
        figure.draw_without_rendering()
        whole = figure.bbox
        boxes = [axis.get_tightbbox() for axis in figure.axes]
        for box in boxes:
            assert box is not None
            assert whole.x0 <= box.x0 + 1
            assert box.x1 <= whole.x1 + 1
            assert whole.y0 <= box.y0 + 1
        for i, one in enumerate(boxes):
            for other in boxes[i + 1 :]:
                width = min(one.x1, other.x1) - max(one.x0, other.x0)
                height = min(one.y1, other.y1) - max(one.y0, other.y0)
                assert min(width, height) <= 1, "two panels overlap"
