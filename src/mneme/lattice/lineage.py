"""What each rule of the room reads of others (`mneme.core.lineage`)."""

from __future__ import annotations

from mneme.core.lineage import Needs

NEEDS: Needs = {
    "lattice_prepare": ("assets_corpora",),
    "lattice_embed": ("lattice_prepare", "assets_convert", "assets_minilm"),
    "lattice_fit": ("lattice_embed",),
    "lattice_measure": ("lattice_prepare", "lattice_embed", "lattice_fit"),
    "lattice_original": (),
    "lattice_planted": (),
    "lattice": ("lattice_measure", "lattice_original", "lattice_planted"),
}
