"""Headline files and needs of all rooms, for the Snakefile, the command line and tests alone."""

from __future__ import annotations

from mneme.core.lineage import CONVERT, SHARED, Needs
from mneme.lattice.lineage import NEEDS as LATTICE
from mneme.routing.lineage import NEEDS as ROUTING
from mneme.ttt.lineage import NEEDS as TTT
from mneme.zeta.lineage import NEEDS as ZETA

ROOMS: dict[str, Needs] = {"routing": ROUTING, "ttt": TTT, "zeta": ZETA, "lattice": LATTICE}
"""Room -> needs of its rules."""
HEADLINES = {
    "env": "env_check",
    "model": "model_load",
    "adapters": "routing_adapters",
    "mixer": "routing_mixer",
    "hysteresis": "hysteresis",
    "fatigue": "fatigue",
    "zeros": "zeros",
    "mdn": "mdn",
    "slot_ablation": "slot_ablation",
    "diagnostics": "diagnostics",
    "kernel": "kernel",
    "statistics": "statistics",
    "ttt_model": "ttt_model",
    "ttt_adapter": "ttt_adapter",
    "ttt_grid": "ttt_grid",
    "ttt_context": "ttt_context",
    "lattice": "lattice",
}
"""Headline file -> the rule (and script) that makes it; all that claims may rest on."""


def phases_of(room: str) -> list[str]:
    """Return the headline files that the rules of a room make (`env.json` is no room's)."""
    return [phase for phase, rule in HEADLINES.items() if rule in ROOMS[room]]


def needs_of(*, embedded: bool) -> Needs:
    """Return rule -> rules whose outputs it reads.

    Parameters
    ----------
    embedded : bool
        Whether the backbone is the embedded model; another one is not converted here.
    """
    routing = {
        rule: tuple(need for need in needs if embedded or need != CONVERT)
        for rule, needs in ROUTING.items()
    }
    claims = {"claims": tuple(HEADLINES.values())}
    return {**SHARED, **routing, **ZETA, **TTT, **LATTICE, **claims}
