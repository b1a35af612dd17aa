"""The figure of the dialogue adapters draws what rows and curves say."""

from __future__ import annotations

import pytest

from mneme.core.headline import run_block
from mneme.report.ttt_adapter import adapter_figure
from mneme.stats.rows import Row


def block(change, *, control_of=None, minus=(), repetition=0.5):
    def row(metric, value, **more):
        ends = {"low": value - 0.01, "high": value + 0.01}
        return Row(metric=metric, value=value, n=5, control_of=control_of, **(ends | more))

    rows = [
        row("dialogue_nll.before", 4.0),
        row("dialogue_nll.after", 4.0 + change),
        row("dialogue_nll.change", change),
        row("dialogue_nll.change", change - 0.1, seed=0, low=None, high=None),
        *(row(f"dialogue_nll.minus_{name}", value) for name, value in minus),
        row("repetition.base", repetition),
        Row(metric="distinct_2.base", value=None, reason="no word"),
    ]
    curves = {"step": [0, 10], "train_loss": [[None, 3.0]], "val_nll": [[4.0, 4.0 + change]]}
    return run_block(rows, curves=curves)


def drawn(axis, marker):
    return [
        (round(float(line.get_xdata()[0]), 6), float(line.get_ydata()[0]))
        for line in axis.get_lines()
        if line.get_marker() == marker
    ]


@pytest.fixture
def axes():
    runs = {
        "ours": block(-0.2, minus=[("ours_permuted", -0.05)]),
        "ours_permuted": block(-0.15, control_of="ours"),
        "original": block(-0.1, repetition=0.25),
    }
    return adapter_figure(runs).axes


def test_changes_and_controls_are_drawn_line_by_line(axes):
    assert drawn(axes[1], "o") == [(-0.2, 0), (-0.15, 1), (-0.1, 2), (-0.05, 3)]
    names = [label.get_text() for label in axes[1].get_yticklabels()]
    assert names == ["ours", "ours_permuted", "original", "ours\nminus ours_permuted"]
    answers = [text.get_text() for text in axes[1].texts]
    assert any("ours: 4.00 to 3.80, −0.200 [−0.210, −0.190]" in text for text in answers)
    assert not any("ours_permuted:" in text for text in answers)


def test_curves_start_at_zero_and_controls_are_grey(axes):
    lines = {line.get_label(): line for line in axes[0].get_lines()}
    assert lines["ours"].get_ydata().tolist() == pytest.approx([0, -0.2])
    assert lines["original"].get_xdata().tolist() == [0, 10]
    colors = {name: lines[name].get_color() for name in ("ours", "ours_permuted", "original")}
    assert len(set(colors.values())) == 3
    assert colors["ours_permuted"] == "#4d4d4d"


def test_replies_leave_out_controls_and_what_is_undefined(axes):
    assert drawn(axes[2], "o") == [(0.5, 4), (0.25, 6)]


def test_a_block_without_curves_or_rows_leaves_gaps():
    adapter_figure({"ours": run_block([])})
