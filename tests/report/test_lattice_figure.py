"""Figure of room lattice draws what the rows say, and leaves out what is missing."""

from __future__ import annotations

import numpy as np
import pytest

from mneme.core.artefacts import save_figure
from mneme.core.headline import run_block
from mneme.report.lattice import lattice_figure, learning_curve, teachers_of
from mneme.report.lattice_core import lattice_lines
from mneme.stats.rows import Row

PUBLISHED = {"original.loss": {"0": 0.9, "2": 0.4}, "original.similarity": {"0": 0.9998}}
PUBLISHED["original.raw_similarity"] = 0.27


def rows(worth, *, rank, further=(), collapsed=0.0):
    values = {"recall@1": worth, "mrr": worth + 0.1, "chance_recall@1": 0.01}
    values |= {"effective_rank": rank, "collapsed": collapsed, **dict(further)}
    values |= {"alignment": 1 - worth, "uniformity_answers": -3.0}
    made = [Row(metric=m, value=v, low=v - 0.02, high=v + 0.02, n=9) for m, v in values.items()]
    return [
        *made,
        *(Row(metric="recall@1", value=worth + d, seed=s) for s, d in ((0, -0.01), (1, 0.01))),
    ]


def block(arm, worth, *, teacher="mini", kind="trained", pairs=100, states=None, rank=50.0, **more):
    settings = {"core": more.pop("core", "off"), "lattice_steps": None}
    settings["pairs"] = None if pairs == 100 else pairs
    settings |= {"control_of": more.pop("control_of", None), "answers": more.pop("answers", "own")}
    further = {"settings": None if kind != "trained" else settings}
    if kind == "trained":
        further["training"] = [{"pairs": pairs}]
    if states is not None:
        further["states"] = states
    made = rows(worth, rank=rank, **more)
    return run_block(made, teacher=teacher, arm=arm, kind=kind, width=40, questions=100, **further)


def original(rho, loss):
    metrics = {"largest_miss": 0.05, "raw_effective_rank": 60.0}
    metrics |= {f"recall_{w}@1": v for w, v in (("raw", 1.0), ("before", 0.2), ("after", 0.1))}
    return run_block(
        [Row(metric=metric, value=value) for metric, value in metrics.items()],
        kind="original",
        rho=rho,
        loss=[loss],
        similarity=[[1.0] * len(loss)],
        verdict="COLLAPSED in 1 of 1 seeds: rank 1",
    )


@pytest.fixture(scope="module")
def runs():
    states = [[[step + z + 0.0] * 4 for z in range(3)] for step in range(5)]
    minus = {"mrr_minus_off": 0.04, "mrr_minus_mlp": 0.03}
    rebuilt = {"reconstruction_r2": 0.7, "reconstruction_centred": 0.8}
    rebuilt |= {"eight_related": 0.95, "eight_unrelated": 0.9}
    similar = {"eight_related": 0.3, "eight_unrelated": 0.1}
    return {
        "mini_few": block("few", 0.3, pairs=30),
        "mini_mlp": block("mlp", 0.45, core="mlp", control_of="on"),
        "mini_off": block("off", 0.4, further=rebuilt),
        "mini_on": block("on", 0.5, core="lattice", states=states, further=minus),
        "mini_pca": block("pca", 0.35, kind="codec", rank=60.0),
        "mini_permuted": block("permuted", 0.01, control_of="off", answers="permuted"),
        "mini_raw": block("raw", 0.2, kind="raw", further=similar),
        "planted_off": block("off", 0.01, teacher="planted", pairs=70),
        "planted_on": block("on", 0.9, teacher="planted", core="lattice", states=states, pairs=70),
        "original_0": original(0.0, [1.0, 0.5, 0.3]),
        "original_0_27": original(0.27, [1.0, 0.6, 0.2]),
    }


@pytest.fixture(scope="module")
def figure(runs):
    return lattice_figure(runs, PUBLISHED)


def panel(figure, title):
    """Return the panel with a title; the first, since a teacher's stand before the control's."""
    return next(axis for axis in figure.axes if axis.get_title(loc="left") == title)


def names(axis):
    return [text.get_text() for text in axis.get_yticklabels()]


def test_baselines_come_first_and_controls_last(runs):
    order = ["raw", "pca", "few", "off", "on", "mlp", "permuted"]
    assert list(teachers_of({**runs, "z_raw": block("raw", 0.1, teacher="z", kind="raw")})) == [
        *("mini", "z", "planted"),
    ]
    assert [block["arm"] for block in teachers_of(runs)["mini"].values()] == order


def test_every_run_has_a_bar_and_guessing_a_line(figure):
    axis = panel(figure, "mini: is the right answer found?")
    assert names(axis) == ["raw", "pca", "few", "off", "on", "mlp", "permuted"]
    assert [bar.get_width() for bar in axis.patches] == [0.2, 0.35, 0.3, 0.4, 0.5, 0.45, 0.01]
    circles = [line.get_xdata()[0] for line in axis.get_lines() if line.get_marker() == "o"]
    assert circles == pytest.approx([0.3, 0.45, 0.4, 0.5, 0.6, 0.55, 0.11])
    dashed = [line for line in axis.get_lines() if list(line.get_xdata()) == [0.01, 0.01]]
    assert len(dashed) == 1
    colors = {bar.get_facecolor()[:3] for bar in axis.patches}
    assert len(colors) == 4, "baselines, arms, the lattice, controls"


def test_the_eight_pairs_stand_beside_other_answers_and_the_published_figure(figure):
    axis = panel(figure, "Eight pairs of the source's kind")
    points = {(*line.get_xdata(), *line.get_ydata()) for line in axis.get_lines()}
    assert {(0.3, 0), (0.1, 0), (0.95, 3), (0.9, 3)} < points, "raw comes first, off fourth"
    assert {len(point) for point in points} == {2, 4}
    assert (0.27, 0.27, 0, 1) in points
    assert any("raw: 0.300 own, 0.100 others'" in text.get_text() for text in axis.texts)
    faces = {line.get_xdata()[0]: line.get_markerfacecolor() for line in axis.get_lines()[1:3]}
    assert faces[0.1] == "white" != faces[0.3]


def test_the_planted_control_comes_after_the_teachers(figure):
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    control = "positive control (planted rule): is the right answer found?"
    assert titles.index("mini: is the right answer found?") < titles.index(control)
    assert titles.index(control) < titles.index("The source's run: its loss")
    axis = panel(figure, control)
    assert [bar.get_width() for bar in axis.patches] == [0.01, 0.9]
    assert titles.count("Eight pairs of the source's kind") == 1


def test_half_of_pcas_rank_is_marked_and_the_gate_speaks(runs, figure):
    title = "Are the vectors spread out?"
    lines = panel(figure, title).get_lines()
    assert sum(list(line.get_xdata()) == [30.0, 30.0] for line in lines) == 1
    alone = {name: block for name, block in runs.items() if name.startswith("mini")}
    flagged = {**alone, "mini_off": block("off", 0.4, collapsed=1.0)}
    texts = [text.get_text() for text in panel(lattice_figure(flagged, {}), title).texts]
    assert " COLLAPSED" in texts
    assert "1 flagged by the collapse gate" in texts


def test_the_learning_curve_joins_arms_that_differ_in_pairs_alone(runs, figure):
    assert learning_curve(teachers_of(runs)["mini"]) == {30: "mini_few", 100: "mini_off"}
    axis = panel(figure, "How many pairs does it take?")
    curves = {line.get_label(): list(line.get_ydata()) for line in axis.get_lines()}
    assert curves["recall@1"] == [0.3, 0.4]
    assert curves["mrr"] == pytest.approx([0.4, 0.5])


def test_the_lattice_stands_against_other_cores_alone(runs, figure):
    assert lattice_lines(teachers_of(runs)["mini"]) == [
        ("mini_on", "off"),
        ("mini_on", "mlp"),
    ]
    axis = panel(figure, "Does the lattice help?")
    points = [line.get_xdata()[0] for line in axis.get_lines() if line.get_marker() == "o"]
    assert points == [0.04, 0.03]
    assert any("minus off: 0.040 [0.020, 0.060]" in text.get_text() for text in axis.texts)


@pytest.mark.parametrize(("core", "measured"), [("off", True), ("off", False), ("mlp", True)])
def test_an_arm_without_a_core_may_train_longer_where_it_is_compared(core, measured):
    minus = {"mrr_minus_longer": 0.0} if measured else {}
    of = {
        "mini_on": block("on", 0.5, core="lattice", states=[], further=minus),
        "mini_longer": block("longer", 0.5, core=core),
    }
    for run, steps in (("mini_on", 200), ("mini_longer", 400)):
        of[run]["settings"]["steps"] = steps
    shown = [("mini_on", "longer")] if core == "off" and measured else []
    assert lattice_lines(of) == shown


def test_slices_are_the_states_under_one_scale(figure):
    images = [image for axis in figure.axes for image in axis.get_images()]
    assert len(images) == 2 * 5, "of the teacher and of the control"
    for step, image in enumerate(images[:5]):
        assert np.asarray(image.get_array()).tolist() == [[step + z] * 4 for z in range(3)]
        assert (image.norm.vmin, image.norm.vmax) == (0.6, 6), "a decade, or what there is"
    colors = images[0].to_rgba(np.array([[0.0, 0.1, 2.0, 6.0]]))[0]
    assert colors[0].tolist() == colors[1].tolist() == [0, 0, 0, 1], "nothing there is black"
    assert colors[1].sum() < colors[2].sum() < colors[3].sum()
    faint = [[[4e-9, 0.0, 4e-3, 4.0]]]
    core = block("on", 0.5, core="lattice", states=faint)
    axes = lattice_figure({"mini_on": core, "mini_raw": block("raw", 0.2, kind="raw")}, {}).axes
    (image,) = [image for axis in axes for image in axis.get_images()]
    assert image.norm.vmin == 4e-3, "rounding is not shown"


def test_the_sources_points_stand_beside_its_rebuilt_run(figure):
    axis = panel(figure, "The source's run: its loss")
    curves = [list(line.get_ydata()) for line in axis.get_lines()]
    assert curves == [[1.0, 0.5, 0.3], [1.0, 0.6, 0.2], [0.9, 0.4]]
    left = panel(figure, "… and what is left of the vectors")
    assert [bar.get_width() for bar in left.patches] == [1.0, 0.2, 0.1] * 2
    assert any("COLLAPSED in 1 of 1 seeds" in text.get_text() for text in left.texts)


def test_what_is_missing_leaves_its_place_out(runs, tmp_path):
    alone = {"mini_raw": runs["mini_raw"]}
    made = lattice_figure(alone, {})
    assert not [image for axis in made.axes for image in axis.get_images()]
    save_figure(made, svg=tmp_path / "a.svg", png=tmp_path / "a.png")
    assert (tmp_path / "a.svg").stat().st_size > 1000
    lattice_figure({}, {})
    lattice_figure({"original_0": runs["original_0"]}, {})
