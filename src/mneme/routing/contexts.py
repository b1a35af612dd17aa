"""Which kinds of sequences each mixer is read on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mneme.routing.config import RunConfig

CONTEXTS_OF_EVERY_MIXER = ("real", "same_domain", "other")
"""The real thing, and what it is measured from."""
FURTHER_CONTEXTS = {"hysteresis": ("mixed", "repeated", "repeated_aa"), "fatigue": ()}
"""What each phase reads on every mixer besides."""


def wanted_contexts(runs: Mapping[str, RunConfig], further: Sequence[str]) -> dict[str, set[str]]:
    """Return which contexts each mixer is read on: its runs' own, and those every mixer needs."""
    wanted: dict[str, set[str]] = {}
    for run in runs.values():
        contexts = wanted.setdefault(run.mixer, {*CONTEXTS_OF_EVERY_MIXER, *further})
        contexts.add(run.context)
    return wanted
