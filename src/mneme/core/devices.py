"""Where a stage computes: device, threads, memory. No silent fallback."""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING, Any, Literal

from mneme.core.config import ConfigError

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda"]


def resolve(name: DeviceName) -> torch.device:
    """Return the torch device for the config key `device`.

    Raises
    ------
    ConfigError
        `cuda` was asked for and there is none: nothing falls back to the CPU silently.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device is cuda but no CUDA GPU is visible: run on a GPU node, or set device: cpu"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def device_facts(device: torch.device) -> dict[str, Any]:
    """Describe the device for provenance: type, name, threads."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"device": device.type, "device_name": name, "threads": torch.get_num_threads()}


def peak_memory_mb() -> float:
    """Return this process's peak resident memory, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2
