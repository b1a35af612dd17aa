"""Files of every adapter -> the blocks of `results/ttt_adapter.json` (no torch here)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.core.seeds import numpy_generator
from mneme.ttt.adapter_config import AdapterRunConfig
from mneme.ttt.adapter_report import MeasuredAdapter, adapter_block


def adapter_runs(
    runs: Mapping[str, AdapterRunConfig],
    losses: Mapping[str, Sequence[Mapping[str, NDArray]]],
    told: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    tried: Mapping[str, int],
    seeds: tuple[int, ...],
    resamples: int,
) -> dict[str, dict[str, Any]]:
    """Report every adapter, beside its controls.

    Parameters
    ----------
    runs : mapping
        Settings by name.
    losses : mapping
        Name -> `before_C`, `after_C`, and both with `_ttt`, under each seed.
    told : mapping
        Name -> `history`, `replies` under each seed.
    tried : mapping
        Name -> configurations tried.
    seeds : tuple of int
        Training seeds, in the order of the files.
    resamples : int
        Bootstrap resamples; draws are equal for all adapters.
    """
    measured = {
        name: MeasuredAdapter(
            seeds=seeds,
            before_SC=_stacked(losses[name], "before_C"),
            after_SC=_stacked(losses[name], "after_C"),
            before_ttt_SC=_stacked(losses[name], "before_ttt_C")
            if _updated(losses[name])
            else None,
            after_ttt_SC=_stacked(losses[name], "after_ttt_C") if _updated(losses[name]) else None,
            replies=tuple(tuple(record["replies"]) for record in told[name]),
            histories=tuple(record["history"] for record in told[name]),
            base=run.base,
            tried=tried[name],
            control_of=run.control_of,
        )
        for name, run in sorted(runs.items())
    }
    return {
        name: adapter_block(
            one,
            controls={n: c for n, c in measured.items() if c.control_of == name},
            resamples=resamples,
            generator=numpy_generator(0, "bootstrap", "ttt_adapter"),
        )
        for name, one in measured.items()
    }


def _updated(arrays: Sequence[Mapping[str, NDArray]]) -> bool:
    return "before_ttt_C" in arrays[0]


def _stacked(arrays: Sequence[Mapping[str, NDArray]], key: str) -> NDArray:
    return np.stack([one[key] for one in arrays])
