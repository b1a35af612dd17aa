"""What each rule of the room reads of others (`mneme.core.lineage`)."""

from __future__ import annotations

from mneme.core.lineage import CONVERT, Needs

NEEDS: Needs = {
    "routing_prepare": ("assets_corpora", CONVERT),
    "model_load": ("routing_prepare",),
    "routing_adapter_fit": ("routing_prepare",),
    "routing_states": ("routing_prepare",),
    "routing_mixer_fit": ("routing_states",),
    "routing_model": ("routing_adapter_fit", "routing_mixer_fit"),
    "routing_trace": ("routing_mixer_fit",),
    "routing_original": ("routing_adapter_fit", "routing_mixer_fit"),
    "routing_adapters": ("routing_adapter_fit",),
    "routing_mixer": ("routing_mixer_fit", "routing_model"),
    "hysteresis": ("routing_trace", "routing_original"),
    "fatigue": ("routing_trace", "routing_original"),
}
