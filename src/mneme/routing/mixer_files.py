"""Calibrated mixers from the folders that rule `routing_mixer_fit` wrote."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from mneme.core.artefacts import read_json, read_tensors
from mneme.core.config import build
from mneme.routing.config import MixerConfig
from mneme.routing.mixer import TimeMixer


def load_mixers(paths: Iterable[str | Path], *, device: torch.device) -> dict[str, list[TimeMixer]]:
    """Load mixers, frozen, in evaluation mode.

    Parameters
    ----------
    paths : iterable of path
        `<mixer>/seed<n>/mixer.safetensors` files, each beside its `mixer.json`.
    device : torch.device
        Where to put them.

    Returns
    -------
    dict of list of TimeMixer
        Mixer name -> one module a seed, in the order of `paths`.

    Raises
    ------
    ArtefactError
        A file is missing or damaged.
    """
    found: dict[str, list[TimeMixer]] = {}
    for path in map(Path, paths):
        record = read_json(path.with_suffix(".json"))
        mixer = TimeMixer(
            build(MixerConfig, record["config"], where="mixer"),
            domains=len(record["domains"]),
            width=record["width"],
            vocab=record["vocab"],
        )
        mixer.load_state_dict(read_tensors(path))
        mixer = mixer.to(device).eval().requires_grad_(False)
        found.setdefault(record["name"], []).append(mixer)
    return found
