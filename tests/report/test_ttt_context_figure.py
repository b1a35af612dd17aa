"""Figures of the long-context experiment and of training draw what their files say."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.text import Text

from mneme.core.artefacts import save_figure
from mneme.core.headline import run_block
from mneme.report.ttt_context import CONTRASTS, NAMES, columns_of, context_figure
from mneme.report.ttt_model import model_figure, readings
from mneme.stats.rows import Row


def row(metric, value, *, seed=None):
    ends = {} if value is None or seed is not None else {"low": value - 0.01, "high": value + 0.01}
    reason = "undefined here" if value is None else None
    return Row(metric=metric, value=value, n=5, reason=reason, seed=seed, **ends)


def curve(values, **more):
    ends = {"low": [None if v is None else v - 0.1 for v in values]}
    return {
        **more,
        "value": values,
        **ends,
        "high": [None if v is None else v + 0.1 for v in values],
    }


def block(arm, values, *, each="plays", recipe="text", rows=(), lengths=None):
    curves = {"nll_by_position": curve(values, first=[1, 2, 4], last=[1, 3, 9])}
    if lengths:
        curves["nll_by_length"] = curve(lengths, length=[4, 8])
    return run_block(rows, arm=arm, recipe=recipe, receptive_field=3, curves={each: curves})


@pytest.fixture(scope="module")
def runs():
    own = [row(f"plays_{metric}", -0.1 * (i + 1)) for i, metric in enumerate(CONTRASTS)]
    seeds = [
        row("plays_own_minus_other", -0.2, seed=0),
        row("plays_own_minus_other", -0.05, seed=1),
    ]
    minus = [
        row("plays_nll_position_minus_text_s@1", 0.3),
        row("plays_nll_position_minus_text_s@2-3", None),
        row("plays_nll_position_minus_text_s@4-9", -0.4),
        row("plays_nll_beyond_minus_text_s", -0.45),
        row("plays_bits_per_byte_beyond", 1.25),
    ]
    chain = {"each": "chains", "recipe": "markov"}
    share = [row("chains_ideal_share", 0.83), row("chains_own_minus_other", -0.6)]
    return {
        "text_s": block("sliding", [3.0, 2.5, 2.0], lengths=[2.0, 1.9]),
        "text_b": block(
            "second", [3.1, None, 1.5], rows=[*own, *seeds, *minus], lengths=[1.8, None]
        ),
        "chain_b": block("second", [3, 2.8, 2.1], rows=share, **chain),
        "markov_ideal_all": block("ideal_all", [3, 2.5, 1.9], **chain),
    }


@pytest.fixture(scope="module")
def figure(runs):
    return context_figure(runs)


def panel(figure, title, *, nth=0):
    return [axis for axis in figure.axes if axis.get_title(loc="left") == title][nth]


def lines(axis):
    """Return name -> (x, y) of the named lines."""
    found = [line for line in axis.get_lines() if not line.get_label().startswith("_")]
    return {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in found}


def dots(axis):
    return [
        (float(line.get_xdata()[0]), round(float(line.get_ydata()[0])))
        for line in axis.get_lines()
        if line.get_marker() == "o" and len(line.get_xdata())
    ]


def answer(axis):
    return axis.texts[0].get_text()


def test_every_set_under_every_recipe_has_a_column(runs, figure):
    assert columns_of(runs) == [("markov", "chains"), ("text", "plays")]
    assert panel(figure, "markov, chains: what is reading on worth?")
    assert len([a for a in figure.axes if a.get_title(loc="left") == "Is it this context?"]) == 2


def test_losses_stand_at_the_middle_of_their_bins(figure):
    drawn = lines(panel(figure, "text, plays: what is reading on worth?"))
    assert set(drawn) == {NAMES["sliding"], NAMES["second"]}
    x, y = drawn[NAMES["second"]]
    np.testing.assert_allclose(x, [1, math.sqrt(6), 6])
    np.testing.assert_array_equal(y, [3.1, math.nan, 1.5])
    assert "ideal learner" in lines(panel(figure, "markov, chains: what is reading on worth?"))


def test_reach_is_marked(figure):
    for title in ("text, plays: what is reading on worth?", "Where does it gain or lose?"):
        upright = [
            line.get_xdata()[0]
            for line in panel(figure, title).get_lines()
            if list(line.get_ydata()) == [0, 1] and line.get_xdata()[0] == line.get_xdata()[1]
        ]
        assert upright == [4]


def test_differences_come_from_their_rows(figure):
    axis = panel(figure, "Where does it gain or lose?", nth=1)
    _, y = lines(axis)[NAMES["second"]]
    np.testing.assert_array_equal(y, [0.3, math.nan, -0.4])
    assert answer(axis) == "beyond reach, second − sliding: −0.450 [−0.460, −0.440]"


def test_lengths_are_drawn_where_there_are_any(figure):
    _, y = lines(panel(figure, "The same tokens after more context"))[NAMES["second"]]
    np.testing.assert_array_equal(y, [1.8, math.nan])


def test_contrasts_stand_in_their_lines(figure):
    forests = [a for a in figure.axes if a.get_title(loc="left") == "Is it this context?"]
    assert [t.get_text() for t in forests[0].get_yticklabels()] == list(CONTRASTS.values())
    assert dots(forests[0]) == [(-0.6, 0)]
    assert dots(forests[1]) == [(pytest.approx(-0.1 * (i + 1)), i) for i in range(len(CONTRASTS))]
    ticks = [line for line in forests[1].get_lines() if line.get_marker() == "|"]
    assert [-0.2, -0.05] in [list(line.get_xdata()) for line in ticks]


def test_a_network_that_was_never_trained_stands_in_the_forest_alone(runs):
    fresh = block("untrained", [7, 7, 7], rows=[row("plays_own_minus_other", -0.35)])
    drawn = context_figure({**runs, "text_u": fresh})
    for title in ("text, plays: what is reading on worth?", "The same tokens after more context"):
        assert NAMES["untrained"] not in lines(panel(drawn, title))
    forests = [a for a in drawn.axes if a.get_title(loc="left") == "Is it this context?"]
    assert (-0.35, 0) in dots(forests[1])
    told = [
        text.get_text()
        for axis in drawn.axes
        if axis.get_legend()
        for text in axis.get_legend().get_texts()
    ]
    assert NAMES["untrained"] in told


def test_baselines_are_named_by_what_they_are(runs):
    """Trained without updates, and never trained, are not the same."""
    rows = [row("plays_own_minus_other", -0.1)]
    more = {arm: block(arm, [3.0, 2.5, 2.0], rows=rows) for arm in ("naive", "untrained")}
    names = {text.get_text() for text in context_figure(runs | more).findobj(Text)}
    assert {"TTT, trained without updates", "TTT, never trained"} <= names


def test_a_window_that_has_not_learnt_is_named(runs):
    def chain(arm, miss):
        rows = [row("chains_nll_beyond_minus_markov_ideal_far", miss)]
        return block(arm, [3, 2.8, 2.1], rows=rows, each="chains", recipe="markov")

    def note(**more):
        figure = context_figure(runs | more)
        return " ".join(text.get_text() for text in figure.texts)

    told = note(markov_s=chain("sliding", 0.81), markov_t=chain("two_mlp", 0.1))
    assert "Not learnt to look back, against the ideal of that reach: markov_s (+0.81)." in told
    assert "markov_t" not in told
    assert "Not learnt" not in note(markov_b=chain("second", 0.9))


def test_windows_are_told_beside_plays(runs):
    counted = runs | {"text_s": runs["text_s"] | {"documents": {"plays": 50}}}
    titles = [axis.get_title(loc="left") for axis in context_figure(counted).axes]
    assert "text, plays (50 windows): what is reading on worth?" in titles


def test_a_run_at_equal_time_is_a_line_of_its_own(runs):
    longer = {**runs["text_s"], "steps_factor": 2.5}
    drawn = context_figure({**runs, "text_s_long": longer})
    names = lines(panel(drawn, "text, plays: what is reading on worth?"))
    assert {NAMES["sliding"], NAMES["sliding, longer"]} <= set(names)
    # differences are still to the sliding window at equal tokens
    _, y = lines(panel(drawn, "Where does it gain or lose?", nth=1))[NAMES["second"]]
    np.testing.assert_array_equal(y, [0.3, math.nan, -0.4])


def test_answers_are_told_in_numbers(figure):
    markov = answer(panel(figure, "markov, chains: what is reading on worth?"))
    assert markov == "share of the ideal gain beyond reach: second 83 %"
    text = answer(panel(figure, "text, plays: what is reading on worth?"))
    assert text == "bits per byte beyond reach: second 1.25"


def test_an_empty_file_is_drawn_and_all_is_saved(figure, tmp_path):
    context_figure({})
    model_figure({})
    save_figure(figure, svg=tmp_path / "f.svg", png=tmp_path / "f.png")
    assert (tmp_path / "f.svg").stat().st_size > 10_000


# --- training


def history(losses, *, seconds, norms=None):
    points = [{"step": 10 * (i + 1), "val_nll": v} for i, v in enumerate(losses)]
    for point, norm in zip(points, norms or [], strict=bool(norms)):
        point["inner_norm"] = norm
    return {"points": points, "seconds": seconds}


def test_training_by_step_and_by_time():
    seeds = [history([4, 2], seconds=10), history([5, 4], seconds=30)]
    by_step, by_time = readings(seeds, "val_nll", x="step"), readings(seeds, "val_nll", x="time")
    assert (by_step.x, by_step.value) == ([10, 20], [4.5, 3])
    assert (by_step.low, by_step.high) == ([4, 2], [5, 4])
    assert by_time.x == [10, 20]  # 20 s on average for 20 steps
    assert readings(seeds, "inner_norm", x="step") is None


def test_every_recipe_has_its_line_of_panels():
    runs = {
        "a_b": run_block(
            [], arm="second", recipe="a", history=[history([4, 2], seconds=10, norms=[1, 2])]
        ),
        "a_s": run_block([], arm="sliding", recipe="a", history=[history([4, 3], seconds=5)]),
        "z_s": run_block([], arm="sliding", recipe="z", history=[history([6, 5], seconds=5)]),
    }
    figure = model_figure(runs)
    named = {name: list(y) for name, (_, y) in lines(panel(figure, "a: at equal tokens")).items()}
    assert named == {"a_b: TTT, second order": [4, 2], "a_s: sliding window": [4, 3]}
    assert list(lines(panel(figure, "At equal time"))["a_s: sliding window"][0]) == [2.5, 5]
    longer = {**runs["a_s"], "steps_factor": 2.0}
    again = lines(panel(model_figure({**runs, "a_t": longer}), "a: at equal tokens"))
    assert f"a_t: {NAMES['sliding, longer']}" in again
    norms = lines(panel(figure, "How steep is the inner loss?"))
    assert set(norms) == {"a_b: TTT, second order"}
    assert set(lines(panel(figure, "z: at equal tokens"))) == {"z_s: sliding window"}


def test_a_run_that_was_read_once_is_a_point():
    once = run_block([], arm="second", recipe="a", history=[history([4], seconds=5)])
    twice = run_block([], arm="sliding", recipe="a", history=[history([4, 3], seconds=5)])
    axis = panel(model_figure({"one": once, "two": twice}), "a: at equal tokens")
    marks = {line.get_label().split(":")[0]: line.get_marker() for line in axis.get_lines()}
    assert (marks["one"], marks["two"]) == ("o", "None")


def test_figures_need_no_torch():
    code = (
        "import sys; import mneme.report.ttt_context, mneme.report.ttt_model; "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
