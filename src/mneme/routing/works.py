"""Names under which files carry which work (play, file, conversation) each passage is of.

A file of its own, so that no step that only hands them on depends on how intervals are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

PREFIX = "works."
"""Arrays of this prefix name the works, `works.a2` those of the passages `a2`."""


def works_within(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return those arrays that name works, to be handed on from file to file."""
    return {name: array for name, array in arrays.items() if name.startswith(PREFIX)}
