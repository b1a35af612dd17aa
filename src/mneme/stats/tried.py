"""How many configurations stand behind a run: a row of headline files."""

from __future__ import annotations

from mneme.stats.rows import Row


def tried_row(count: int, *, control_of: str | None) -> Row:
    """Return the row `configurations_tried`.

    Parameters
    ----------
    count : int
        Configurations compared on validation material, the one in use among them, at least 1.
    control_of : str or None
        Run that this one is a control of.
    """
    return Row(
        metric="configurations_tried",
        value=float(count),
        unit="configurations",
        control_of=control_of,
    )
