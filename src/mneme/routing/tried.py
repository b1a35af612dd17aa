"""How many configurations stand behind a run: a row of every headline file of the room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mneme.stats.rows import Row


def with_tried(
    blocks: Mapping[str, Mapping[str, Any]], tried: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """Add the row `configurations_tried` to every run.

    Parameters
    ----------
    blocks : mapping
        Run -> block of a headline file.
    tried : mapping
        Run -> configurations compared on validation material, the one in use among them; 0 where
        nothing was chosen.

    Raises
    ------
    KeyError
        A run has no count.
    """
    out = {}
    for name, block in blocks.items():
        row = Row(
            metric="configurations_tried",
            value=float(tried[name]),
            unit="configurations",
            control_of=block["rows"][0]["control_of"] if block["rows"] else None,
        )
        out[name] = {**block, "rows": [*block["rows"], row.as_dict()]}
    return out
