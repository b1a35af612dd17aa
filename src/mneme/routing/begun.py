"""The first domain's adapter, taken from run `none` by runs that train it in the same way.

What protects earlier domains has nothing to protect while the first one trains, so its adapter is
bit for bit the same in all of them, and so is what it and the bare backbone lose on every domain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mneme.core.artefacts import read_json
from mneme.routing.domains import BASE, peft_name
from mneme.routing.paths import WEIGHTS

Losses = dict[str, dict[str, list[float]]]
"""`base` or adapter -> domain -> nats/token a chunk."""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What another run made of the first domain, at one seed."""

    domain: str
    """Name of the first domain."""
    weights: Mapping[str, Tensor]
    """Adapter, by PEFT's names."""
    losses: Losses
    """Held-out losses of `base` and of the first domain's adapter."""
    history: Mapping[str, Any]
    """History of its training."""

    def give(self, parameters: Mapping[str, Tensor]) -> None:
        """Copy the weights into an adapter's parameters, given by their names in the model."""
        inside = f".{peft_name(self.domain)}."
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.copy_(self.weights[key.replace(inside, ".")])


def read_begun(files: Sequence[str], seeds: Sequence[int], domain: str) -> dict[int, Begun]:
    """Read what a run left of its first domain, by seed.

    Parameters
    ----------
    files : sequence of str
        `RoutingPaths.begun`: the run's `losses.json` of every seed, then its further files; empty
        where nothing is taken over.
    seeds : sequence of int
        Training seeds, in the order of the files.
    domain : str
        Name of the first domain.
    """
    folders = [Path(path).parent for path in files if Path(path).name == "losses.json"]
    if not folders:
        return {}
    return {seed: _read(folder, domain) for seed, folder in zip(seeds, folders, strict=True)}


def _read(folder: Path, domain: str) -> Begun:
    losses, history = (read_json(folder / f"{name}.json") for name in ("losses", "history"))
    return Begun(
        domain=domain,
        weights=load_file(folder / "adapters" / domain / WEIGHTS),
        losses={name: losses[name] for name in (BASE, domain)},
        history=history["domains"][domain],
    )
