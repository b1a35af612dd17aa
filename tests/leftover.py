"""What a killed process leaves behind."""

from __future__ import annotations

from pathlib import Path

from mneme.core.partial import partial_path

NOBODY = 4_194_305
"""A number that Linux gives no process: one above its largest."""


def left_by_a_dead_process(final: Path) -> Path:
    """Return the temporary name beside `final` of a process of this machine that is no more."""
    *head, _, tail = partial_path(final).name.rsplit(".", 2)
    return final.with_name(".".join([*head, str(NOBODY), tail]))
