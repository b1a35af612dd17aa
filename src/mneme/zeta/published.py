"""The source's own figures, to set beside ours: phase -> where they stand -> address -> value.

`document` is the source's description of its project, `code` what only its public code holds. Its
runs are named as ours are. Its NLL is the window average on the last tenth of the windows, its
Err@10 our `err_source@10` (context 10, mean |error| a step), its Err@100 the mean |error| a step
from context 100. An undefined value is None beside a `<address>_reason`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MDN = {
    "document": {
        "e0.nll": -0.5721,
        "e0.crps": 0.0835,
        "e0.err_step@100": 0.2772,
        "original_e0.nll": -0.5721,
        "original_e0.crps": 0.0835,
        "v1.nll": -0.4413,
        "e1.nll": -0.3793,
        "e2.nll": None,
        "e2.nll_reason": "the document stops at step 3,000 of the run",
        "e2.step3000.nll": 0.1936,
        "e2.step3000.err_source@10": 0.3266,
        "typical.nll_start": [0.5, 1.0],
        "typical.nll_end": [-0.6, -0.3],
        "typical.err_source@10": [0.25, 0.35],
    },
    "code": {"e2.nll": -0.3840, "original.nll": -0.3840},
}
"""One seed, no interval; the source selects and reports on the same windows. E0 and E2 stand beside
our runs of that name and beside those with its positions and split (`original_e0`, `original`)."""

_SLOT_ABLATION = {
    "document": {
        "v0.mem_entropy": 2.08,
        "v1.eff_percent": 3.45,
        "v1.rollout_effect": 0.16,
        "e1.eff_percent": 2.39,
        "e1.rollout_effect": -0.16,
        "e2.step2000.eff_percent": 3.7,
        "e2.step3000.eff_percent": 4.9,
        "bands.eff_percent": [0, 1, 3, 10, 30],
        "bands.eff_percent_names": ["ballast", "marginal", "useful", "strong", "dominant"],
        "bands.rollout_effect": [0, 2, 5],
        "bands.rollout_effect_names": ["harmful", "marginal", "useful", "holds focus"],
        "goal.rollout_effect": 5.0,
        "goal.rollout_effect_later": 10.0,
        "bands.mem_entropy_favourites_below": 1.5,
        "bands.mem_entropy_most": 2.08,
    },
}
"""Bands: lower ends of each (rollout effect: harmful below 0); percent, entropy in nats."""

_DIAGNOSTICS = {
    "document": {
        "v0.slots_alike": True,
        "v0.mem_entropy": 2.08,
        "phenomena": [
            "shortcut",
            "symmetry",
            "co-adaptation",
            "gradient correlation",
            "train against rollout",
            "slot effect norm",
        ],
    },
}

PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "mdn": _MDN,
    "slot_ablation": _SLOT_ABLATION,
    "diagnostics": _DIAGNOSTICS,
    "statistics": {},
    "kernel": {},
}
"""`statistics` and `kernel` are goals in the document, without a figure."""


def figures_by_run(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return run -> metric -> figure, out of addresses `<run>.<metric>`, for figures to mark."""
    found: dict[str, dict[str, Any]] = {}
    for address, value in document.items():
        run, _, metric = address.partition(".")
        if "." not in metric and run not in ("bands", "goal", "typical"):
            found.setdefault(run, {})[metric] = value
    return found


MDN_MARKS = figures_by_run(_MDN["document"] | _MDN["code"])
"""What the figure of `mdn.json` marks."""
