"""Needs of the rules of all rooms; only the Snakefile and tests import this module."""

from __future__ import annotations

from mneme.core.lineage import CONVERT, SHARED, Needs
from mneme.lattice.lineage import NEEDS as LATTICE
from mneme.routing.lineage import NEEDS as ROUTING
from mneme.ttt.lineage import NEEDS as TTT
from mneme.zeta.lineage import NEEDS as ZETA


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
    return {**SHARED, **routing, **ZETA, **TTT, **LATTICE}
