"""The figure of level statistics draws what `zeta.statistics` reads, and says what is missing."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from mneme.core.artefacts import save_figure
from mneme.report.style import GREYS, OURS
from mneme.report.zeta_statistics import (
    EXACT,
    controls_of,
    leaves_at,
    sampled_of,
    statistics_figure,
)
from mneme.zeta.statistics import StatisticsConfig, sequences_of, statistics
from mneme.zeta.surrogates import gue_spacings

TITLES = {
    "spacing_law": "How far apart are neighbours?",
    "pair_correlation": "How often is another at distance r?",
    "number_variance": "How much do counts vary?",
    "rigidity": "How straight is the staircase?",
}
LENGTHS = (2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
EXACT_NAMES = {style["label"] for style in EXACT.values()}


def read(sequences):
    config = StatisticsConfig(
        longest_spacing=3.0,
        longest_pair=3.0,
        bins=15,
        lengths=LENGTHS,
        step=0.5,
        resamples=100,
    )
    generator = np.random.default_rng(1)
    return statistics(sequences, np.arange(len(sequences)), config, generator=generator)


@pytest.fixture(scope="module")
def runs():
    """GUE, its spacings shuffled, a fence whose counts saturate, and short Poisson sequences."""
    generator = np.random.default_rng(0)
    gue = gue_spacings(20_000, generator=generator)
    fence = np.diff(np.arange(20_001) + generator.uniform(-0.45, 0.45, 20_001))
    poisson = generator.exponential(size=(100, 40)) + 1e-6
    return {
        "zeta": read(sequences_of(fence, 1000)),
        "gue": read(sequences_of(gue, 1000)),
        "shuffled": read(sequences_of(generator.permutation(gue), 1000)),
        "sampled_v1": read(poisson),
        "sampled_carry": read(poisson[:, :3]),
        "sampled_e0": read(gue[:8000].reshape(-1, 40)),
    }


@pytest.fixture(scope="module")
def figure(runs):
    return statistics_figure(runs)


def panel(figure, key):
    return next(axis for axis in figure.axes if axis.get_title(loc="left") == TITLES[key])


def lines(axis):
    """Return the lines of a panel by the run they are labelled with."""
    return {line.get_label().split(":")[0]: line for line in axis.get_lines()}


def told(figure):
    """Return all free text of the figure, as one line."""
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    return " ".join(" ".join(texts).split())


def edge(axis):
    """Return where the logarithmic part of a variance's axis begins."""
    return axis.yaxis.get_transform().linthresh


# --- what is drawn


@pytest.mark.parametrize("key", TITLES)
def test_every_run_is_drawn_as_it_was_read_with_its_band(runs, figure, key):
    axis = panel(figure, key)
    drawn = lines(axis)
    having = [run for run in runs if key in runs[run]["curves"]]
    assert set(drawn) - {name.split(":")[0] for name in EXACT_NAMES} == set(having)
    for run in having:
        curve = runs[run]["curves"][key]
        assert list(drawn[run].get_xdata()) == curve["x"]
        assert list(drawn[run].get_ydata()) == curve["value"]
    assert len(axis.collections) == len(having)
    (zeta,) = (band for band in axis.collections if to_hex(band.get_facecolor()[0]) == OURS.lower())
    corners = {tuple(corner) for corner in zeta.get_paths()[0].vertices}
    curve = runs["zeta"]["curves"][key]
    for end in ("low", "high"):
        assert corners >= set(zip(curve["x"], curve[end], strict=True))


def test_exact_curves_reach_as_far_as_the_longest_run(runs, figure):
    for key in TITLES:
        drawn = lines(panel(figure, key))
        longest = runs["gue"]["curves"][key]
        for name in ("gue", "poisson"):
            assert list(drawn[EXACT[name]["label"]].get_xdata()) == longest["x"]
            assert list(drawn[EXACT[name]["label"]].get_ydata()) == longest[name]
    pairs = lines(panel(figure, "pair_correlation"))[EXACT["gue"]["label"]]
    x = np.asarray(pairs.get_xdata())
    known = 1 - (np.sin(np.pi * x) / (np.pi * x)) ** 2
    assert np.allclose(pairs.get_ydata(), known, rtol=0, atol=1e-12)


def test_zeros_are_strong_and_on_top_and_controls_grey(figure):
    drawn = lines(panel(figure, "rigidity"))
    assert drawn["zeta"].get_color() == OURS
    others = [line for run, line in drawn.items() if run != "zeta"]
    assert drawn["zeta"].get_zorder() > max(line.get_zorder() for line in others)
    assert drawn["gue"].get_color() in GREYS
    assert drawn["shuffled"].get_color() in GREYS
    assert drawn["gue"].get_linestyle() != "-" != drawn["shuffled"].get_linestyle()
    assert drawn["sampled_e0"].get_color() not in (*GREYS, OURS)


def test_small_variances_are_linear_and_nothing_is_cut_off(figure):
    for key in ("number_variance", "rigidity"):
        axis = panel(figure, key)
        assert axis.get_xscale() == "log"
        values = {run: np.asarray(line.get_ydata()) for run, line in lines(axis).items()}
        small = max(values["zeta"].max(), values[EXACT["gue"]["label"]].max())
        assert small < edge(axis) < values["shuffled"].max()
        assert axis.get_ylim()[1] > max(value.max() for value in values.values())
        places = axis.transAxes.inverted().transform(axis.transData.transform([(1, edge(axis))]))
        assert places[0, 1] == pytest.approx(0.7, abs=0.02)
        ticks = axis.get_yticks()
        assert sum(ticks < edge(axis)) >= 4, "saturation is readable"
        powers = np.log10(ticks[ticks > edge(axis)])
        assert np.array_equal(powers, np.round(powers))


# --- what is told


def test_the_length_at_which_gue_is_left():
    curve = {"x": [1, 2, 5], "low": [0, 0, 0], "high": [2, 2, 2], "gue": [1, 1, 1]}
    assert leaves_at(curve) is None
    assert leaves_at(curve | {"gue": [3, 1, 3]}) == 5, "2 lies between"
    assert leaves_at(curve | {"gue": [1, 3, -1]}) == 2
    assert leaves_at(curve | {"gue": [3, 3, 1]}) is None
    assert leaves_at(curve | {"gue": [3, 3, 3], "low": [0, None, 0]}) == 5
    assert leaves_at(curve | {"gue": [3, 3, 3]}) == 1


def test_answers_are_the_rows_numbers(runs, figure):
    answers = {key: panel(figure, key).texts for key in TITLES}
    variance = " ".join(text.get_text() for text in answers["number_variance"])
    row = next(r for r in runs["zeta"]["rows"] if r["metric"] == "number_variance@100")
    assert f"L = 100: zeta {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in variance
    assert "apart from L = " in variance
    poisson = next(r for r in runs["sampled_v1"]["rows"] if r["metric"] == "number_variance@20")
    assert "L = 20: zeta\N{NO-BREAK SPACE}" in variance, "the longest length that sampled runs have"
    assert f"v1\N{NO-BREAK SPACE}{poisson['value']:.1f}" in variance
    assert "carry" not in variance
    law = " ".join(text.get_text() for text in answers["spacing_law"])
    row = next(r for r in runs["sampled_v1"]["rows"] if r["metric"] == "spacing_law_mse")
    assert f"v1\N{NO-BREAK SPACE}{1e4 * row['value']:.0f}" in law


def test_missing_lengths_are_told_with_their_reason(runs, figure):
    words = told(figure)
    assert "sampled_e0, sampled_v1: lengths above 20, half a sequence, are left out" in words
    assert "sampled_carry: sequences of 3 spacings are too short" in words
    assert "too short for some pairs" in words
    assert "not drawn" not in words
    only = statistics_figure({"gue": runs["gue"]})
    assert "left out" not in told(only), "nothing is missing"


def test_an_undefined_value_leaves_a_gap(runs):
    curve = runs["zeta"]["curves"]["rigidity"]
    holes = {end: [None, *curve[end][1:]] for end in ("value", "low", "high")}
    block = {**runs["zeta"], "curves": {"rigidity": curve | holes}}
    axis = panel(statistics_figure({"zeta": block}), "rigidity")
    values = np.asarray(lines(axis)["zeta"].get_ydata())
    assert np.array_equal(np.isnan(values), [True] + [False] * (len(values) - 1))


# --- which runs


def test_a_handful_of_sampled_runs_is_in_focus(runs):
    many = [f"sampled_{arm}" for arm in ("v1", "e2", "e0_gue", "primes", "e3")]
    names = ["zeta", *many, "gue", "sampled_e0"]
    assert sampled_of(dict.fromkeys(names)) == [
        "sampled_e0",
        "sampled_primes",
        "sampled_e2",
        "sampled_v1",
    ]
    assert controls_of(dict.fromkeys(names)) == ["gue"]
    figure = statistics_figure(dict.fromkeys(names, runs["gue"]))
    assert "in the file, not drawn: sampled_e0_gue, sampled_e3" in told(figure)
    drawn = lines(panel(figure, "spacing_law"))
    assert not {"sampled_e0_gue", "sampled_e3"} & set(drawn)
    colors = [drawn[run].get_color() for run in sampled_of(dict.fromkeys(names))]
    assert len(set(colors)) == 4


@pytest.mark.parametrize("run", ["zeta", "gue", "sampled_v1", "sampled_carry"])
def test_one_run_alone_is_drawn(runs, run):
    figure = statistics_figure({run: runs[run]})
    assert run in lines(panel(figure, "spacing_law"))
    drawn = lines(panel(figure, "rigidity"))
    assert (run in drawn) == ("rigidity" in runs[run]["curves"])


def test_nothing_at_all_still_draws():
    assert not [line for axis in statistics_figure({}).axes for line in axis.get_lines()]


def test_no_text_lies_on_another_and_all_lies_inside(runs):
    figure = statistics_figure(runs)
    canvas = FigureCanvasAgg(figure)
    renderer = canvas.get_renderer()
    width, height = canvas.get_width_height()
    boxes = []
    for axis in figure.axes:
        parts = [axis.title, axis._left_title, axis.xaxis.label, axis.yaxis.label, *axis.texts]
        parts += [axis.get_legend()] if axis.get_legend() else []
        boxes += [part.get_window_extent(renderer) for part in parts]
    boxes = [box for box in boxes if box.width > 1]
    for place, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])


def test_saved_twice_is_the_same_file(runs, tmp_path):
    for name in ("one", "two"):
        figure = statistics_figure({"gue": runs["gue"]})
        save_figure(figure, svg=tmp_path / f"{name}.svg", png=tmp_path / f"{name}.png")
    for kind in ("svg", "png"):
        one, two = (tmp_path / f"{name}.{kind}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
