"""What each rule of the room reads of others (`mneme.core.lineage`)."""

from __future__ import annotations

from mneme.core.lineage import Needs

NEEDS: Needs = {
    "zeros": (),
    "zeta_prepare": ("zeros",),
    "zeta_fit": ("zeta_prepare",),
    "zeta_primes_fit": ("zeta_prepare",),
    "zeta_measure": ("zeta_fit",),
    "zeta_primes_measure": ("zeta_primes_fit",),
    "zeta_references": ("zeta_prepare",),
    "zeta_floor": (),
    "zeta_transfer": ("zeros", "zeta_prepare", "zeta_fit", "zeta_primes_fit"),
    "mdn": (
        "zeta_measure",
        "zeta_primes_measure",
        "zeta_references",
        "zeta_floor",
        "zeta_transfer",
    ),
    "slot_ablation": ("zeta_fit", "zeta_measure"),
    "diagnostics": ("zeta_fit",),
    "kernel": ("zeta_fit",),
    "statistics": ("zeta_measure", "zeta_primes_measure"),
}
