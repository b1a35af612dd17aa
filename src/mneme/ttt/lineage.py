"""What each rule of the room reads of others (`mneme.core.lineage`)."""

from __future__ import annotations

from mneme.core.lineage import Needs

NEEDS: Needs = {
    "ttt_prepare": ("assets_corpora", "assets_convert"),
    "ttt_fit": ("ttt_prepare",),
    "ttt_measure": ("ttt_prepare", "ttt_fit"),
    "ttt_adapter_fit": ("ttt_prepare", "ttt_fit"),
    "ttt_model": ("ttt_fit",),
    "ttt_adapter": ("ttt_adapter_fit",),
    "ttt_grid": ("ttt_prepare", "ttt_fit", "ttt_adapter_fit"),
    "ttt_context": ("ttt_measure",),
}
