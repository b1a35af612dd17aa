"""Environment check: what this machine offers, and whether a run can start on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mneme.core.devices import DeviceName

PACKAGE = "mneme"
MIN_DISK_GIB = 5.0  # wheels, model, corpora and the results of the default
MIN_MEMORY_GIB = 4.0  # the embedded model in float32 with its activations
MIN_CAPABILITY = (8, 0)  # first with bfloat16 in its tensor cores


class EnvironmentCheckError(ValueError):
    """A machine that a run cannot start on: which check, what to do."""


@dataclass(frozen=True)
class Check:
    """One line of the environment check."""

    name: str
    """What was looked at."""
    value: str | float | None
    """What was found; None when there is none."""
    status: Literal["pass", "warn", "fail"]
    """fail: a run cannot start."""
    advice: str = ""
    """What to do, empty when it passes."""

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready builtins."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class EnvironmentConfig:
    """Settings of rule `env_check`."""

    device: DeviceName
    """Where torch is to compute."""
    results: str
    """Output folder: its disk is looked at."""


def check_environment(config: EnvironmentConfig, *, threads: int) -> list[Check]:
    """Look at interpreter, dependencies, threads, memory, disk and GPU.

    Parameters
    ----------
    config : EnvironmentConfig
        What the run asks for.
    threads : int
        Threads of a job.

    Returns
    -------
    list of Check
        In a fixed order; nothing is raised here (see `refuse_failed`).
    """
    return [
        python_check(),
        *dependency_checks(importlib.metadata.requires(PACKAGE) or []),
        threads_check(threads, _usable_cores()),
        memory_check(psutil.virtual_memory().total / 2**30),
        disk_check(config.results),
        *gpu_checks(config.device),
    ]


def refuse_failed(checks: Sequence[Check]) -> None:
    """Raise `EnvironmentCheckError` with the first failed check and its advice, if there is one."""
    for check in checks:
        if check.status == "fail":
            found = "none" if check.value is None else check.value
            raise EnvironmentCheckError(f"{check.name}: found {found}; {check.advice}")


def python_check() -> Check:
    """Compare the interpreter with the package's own `requires-python`."""
    asked = importlib.metadata.metadata(PACKAGE)["Requires-Python"]
    found = platform.python_version()
    if SpecifierSet(asked).contains(found, prereleases=True):
        return Check("python", found, "pass")
    return Check("python", found, "fail", f"install Python {asked}")


def dependency_checks(requirements: Sequence[str]) -> list[Check]:
    """Compare installed versions with the ranges of `Requires-Dist` lines (no extras)."""
    asked = [Requirement(line) for line in requirements]
    return [_dependency(item) for item in asked if item.marker is None or item.marker.evaluate()]


def _dependency(asked: Requirement) -> Check:
    remedy = f'run `pip install "{asked.name}{asked.specifier}"`'
    try:
        found = importlib.metadata.version(asked.name)
    except importlib.metadata.PackageNotFoundError:
        return Check(asked.name, None, "fail", remedy)
    if asked.specifier.contains(found, prereleases=True):
        return Check(asked.name, found, "pass")
    return Check(asked.name, found, "fail", remedy)


def threads_check(threads: int, cores: int) -> Check:
    """Warn when a job would use more threads than there are cores."""
    if threads <= cores:
        return Check("threads", f"{threads} of {cores} cores", "pass")
    advice = f"set threads to at most {cores}: more only slow each other down"
    return Check("threads", f"{threads} of {cores} cores", "warn", advice)


def _usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def memory_check(total_gib: float) -> Check:
    """Warn when the host has less memory than the embedded default needs."""
    value = round(total_gib, 1)
    if total_gib >= MIN_MEMORY_GIB:
        return Check("host_memory_gib", value, "pass")
    advice = f"the default needs {MIN_MEMORY_GIB:.0f} GiB: set dtype: bfloat16 or lower the batch"
    return Check("host_memory_gib", value, "warn", advice)


def disk_check(folder: str | Path) -> Check:
    """Look at the free space of the disk that will hold `folder`."""
    place = Path(folder).resolve()
    while not place.exists():
        place = place.parent
    free = round(shutil.disk_usage(place).free / 2**30, 1)
    if free >= MIN_DISK_GIB:
        return Check("disk_free_gib", free, "pass")
    status = "warn" if free >= 1 else "fail"
    return Check("disk_free_gib", free, status, f"free {MIN_DISK_GIB:.0f} GiB for {folder}")


def gpu_checks(device: DeviceName) -> list[Check]:
    """Look at CUDA: version, name, capability, BF16, memory. Absent though asked for: fail."""
    import torch

    if not torch.cuda.is_available():
        if device == "cuda":
            advice = "device: cuda asks for a GPU: run on a GPU node, or set device: cpu"
            return [Check("cuda", None, "fail", advice), _cpu_bf16()]
        return [Check("cuda", None, "pass"), _cpu_bf16()]
    return list(_cuda(torch.cuda.current_device()))


def _cuda(index: int) -> Iterator[Check]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    capability = (properties.major, properties.minor)
    yield Check("cuda", str(torch.version.cuda or torch.version.hip), "pass")
    yield Check("device_name", properties.name, "pass")
    yield Check("device_count", float(torch.cuda.device_count()), "pass")
    recent = capability >= MIN_CAPABILITY
    advice = "" if recent else "bfloat16 is emulated and slow below 8.0: set dtype: float32"
    status = "pass" if recent else "warn"
    yield Check("capability", f"{capability[0]}.{capability[1]}", status, advice)
    supported = torch.cuda.is_bf16_supported(including_emulation=False)
    yield Check("bf16", "yes" if supported else "no", "pass" if supported else "warn", advice)
    free, total = torch.cuda.mem_get_info(index)
    yield Check("device_memory_gib", round(total / 2**30, 1), "pass")
    crowded = free < 0.8 * total
    advice = "another process holds memory of this GPU" if crowded else ""
    yield Check(
        "device_memory_free_gib", round(free / 2**30, 1), "warn" if crowded else "pass", advice
    )


def _cpu_bf16() -> Check:
    """Tell which BF16 instructions the CPU has (only `amx_bf16` makes bfloat16 faster here)."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return Check("bf16", None, "pass")
    found = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]
    return Check("bf16", " ".join(found) or "no", "pass")
