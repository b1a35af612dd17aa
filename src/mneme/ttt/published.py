"""The sources' own figures, to set beside ours: phase -> where they stand -> address -> value.

`document` is the source's description of its project; its runs are named as ours are. `official` is
the paper whose method it follows (Tandon et al. 2025, End-to-end test-time training for long
context), on models of 3 billion parameters. Two numbers are the ends of a range.
"""

from __future__ import annotations

from typing import Any

_MODEL = {
    "document": {
        "ttt_blocks_share": 0.25,
        "qk_norm": True,
        "rule.window_at_least_chunk": True,
    },
}

_ADAPTER = {
    "document": {
        "corpus": "OpenRL/daily_dialog",
        "corpus_share": 1.0,
        "replies": "noisy and repetitive, with and without the adapter",
    },
}

_GRID = {
    "document": {
        "original.percent": [0.33, 0.56],
        "original.delta": [0.033, 0.060],
        "original_adapter.percent": [0.21, 0.31],
        "original_adapter.pre_lower_than_original": True,
        "claim": "TinyLoRA lowers the loss but does not raise the gain in percent",
    },
}
"""Loss of the second part before and after adapting on the first, without controls or intervals;
delta in nats. The ranges are over the cells of its grid."""

_CONTEXT = {
    "official": {
        "second.scales_with_context_like_full": True,
        "second_minus_full.nll": -0.011,
        "second_minus_full.tokens": [8_192, 131_072],
        "prefill_speed_over_full@131072": 2.7,
        "retrieval": "needles are found no better than by a sliding window: compression, no recall",
    },
}

PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "ttt_model": _MODEL,
    "ttt_adapter": _ADAPTER,
    "ttt_grid": _GRID,
    "ttt_context": _CONTEXT,
}
