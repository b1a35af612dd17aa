"""Where a stage computes: device, threads, memory. No silent fallback."""

from __future__ import annotations

import ctypes
import resource
import sys
from typing import TYPE_CHECKING, Any, Literal

from mneme.core.config import ConfigError

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # names of mallopt(3)


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


def keep_memory() -> bool:
    """Have the C library keep freed memory for the next array, up to the process's end.

    By itself glibc gives every array of more than 32 MiB back to the kernel, which fills the next
    one with zeros page by page: a third of the time of a stage that writes many logits. Peak memory
    grows by a fifth (docs/log.md).

    Returns
    -------
    bool
        Whether it will; False with a C library that has no such setting.

    References
    ----------
    .. [1] mallopt(3), Linux man-pages.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])


def peak_memory_mb() -> float:
    """Return this process's peak resident memory, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2
