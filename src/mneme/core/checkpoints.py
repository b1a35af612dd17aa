"""Training loops that survive being killed, to the same final tensors, bit for bit.

A checkpoint holds the live objects of a training (`Training`) and the number of finished steps.
It appears atomically, carries its own SHA-256, is read without running pickled code, and belongs
to one set of settings (a fingerprint): with other settings training starts from the beginning.
It lives outside a rule's declared outputs, because Snakemake deletes those before it reruns a
killed job, and the script removes it when all final artefacts are written.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mneme.core.artefacts import ArtefactError, atomic_path
from mneme.core.partial import clear_partial

SAVE_EVERY_S = 30.0
"""At most this much work is lost by a kill, s, unless saving takes long."""
SAVE_SHARE = 0.05
"""Largest share of the time that saving takes: large networks are saved less often."""
LOG_EVERY_S = 15.0
"""Time between progress lines, s."""
_MAGIC = b"mneme checkpoint 1\n"

Log = Callable[[str], None]
Step = Callable[[int], Mapping[str, Any]]
"""Index of the step, 0..steps-1 -> what to keep of it (numbers and names; `loss` is logged)."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """The live objects of one training, saved together and restored in place."""

    tensors: Mapping[str, Tensor]
    """Trained parameters and changing buffers by name."""
    optimizers: Mapping[str, torch.optim.Optimizer] = field(default_factory=dict)
    """Optimisers by name."""
    torch_generators: Mapping[str, torch.Generator] = field(default_factory=dict)
    """Torch generators that the steps draw from (`torch.default_generator` for dropout)."""
    numpy_generators: Mapping[str, np.random.Generator] = field(default_factory=dict)
    """Numpy generators that the steps draw from."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One record a finished step."""


def run_steps(
    step: Step,
    training: Training,
    *,
    steps: int,
    path: str | Path,
    fingerprint: str,
    log: Log,
    label: str,
    save_every_s: float = SAVE_EVERY_S,
) -> None:
    """Run the steps that are still to do, saving on the way; finished steps are not repeated.

    Parameters
    ----------
    step : callable
        Performs step i on the objects of `training` and returns its record.
    training : Training
        Live objects, changed in place; `history` then has one record a step.
    steps : int
        Total number of steps.
    path : path
        Checkpoint file; continued from when it exists, left behind with all steps done.
    fingerprint : str
        Hash of everything that decides the result (settings, code, data).
    log : callable
        Takes progress lines.
    label : str
        What is trained, for the lines.
    save_every_s : float
        Time between checkpoints, s, or what saving one takes over `SAVE_SHARE` where that is more;
        0 saves after every step. Never changes the result.

    Raises
    ------
    ArtefactError
        The checkpoint is damaged, or the disk is full.
    """
    first = restore(path, training, fingerprint=fingerprint, log=log)
    if first:
        log(f"{label}: continuing after step {first}/{steps} from {path}")
    started = saved = told = time.monotonic()
    pause = save_every_s
    bar = tqdm(range(first, steps), desc=label, initial=first, total=steps, disable=None)
    for index in bar:
        record = dict(step(index))
        training.history.append(record)
        now = time.monotonic()
        if now - told >= LOG_EVERY_S or index + 1 == steps:
            log(_progress(label, index + 1, steps, record, (now - started) / (index + 1 - first)))
            told = now
        if now - saved >= pause or index + 1 == steps:
            save(path, training, step=index + 1, fingerprint=fingerprint)
            saved = time.monotonic()
            pause = save_every_s and max(save_every_s, (saved - now) / SAVE_SHARE)


def save(path: str | Path, training: Training, *, step: int, fingerprint: str) -> None:
    """Write a checkpoint atomically; raises `ArtefactError` when the disk is full."""
    content = {
        "fingerprint": fingerprint,
        "step": step,
        "tensors": {name: tensor.detach() for name, tensor in training.tensors.items()},
        "optimizers": {name: o.state_dict() for name, o in training.optimizers.items()},
        "torch": {name: g.get_state() for name, g in training.torch_generators.items()},
        "numpy": {n: _numpy_text(g) for n, g in training.numpy_generators.items()},
        "history": json.dumps(training.history),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    payload = buffer.getbuffer()
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        handle.write(_MAGIC + hashlib.sha256(payload).digest())
        handle.write(payload)


def restore(path: str | Path, training: Training, *, fingerprint: str, log: Log) -> int:
    """Restore the objects of `training` in place and return the number of finished steps.

    Returns
    -------
    int
        0, with nothing changed, when there is no checkpoint or it was made with other settings
        (which is logged).

    Raises
    ------
    ArtefactError
        The file is damaged: names it and says what to do.
    """
    if not Path(path).exists():
        return 0
    content = _read(path)
    if content["fingerprint"] != fingerprint:
        log(f"{path} was made with other settings, code or data: starting from the beginning")
        return 0
    assert content["tensors"].keys() == training.tensors.keys(), "fingerprint misses something"
    with torch.no_grad():
        for name, tensor in training.tensors.items():
            tensor.copy_(content["tensors"][name])
    for name, optimizer in training.optimizers.items():
        optimizer.load_state_dict(content["optimizers"][name])
    for name, generator in training.torch_generators.items():
        generator.set_state(content["torch"][name])
    for name, numpy_generator in training.numpy_generators.items():
        numpy_generator.bit_generator.state = json.loads(content["numpy"][name])
    training.history[:] = json.loads(content["history"])
    return content["step"]


def remove(path: str | Path) -> None:
    """Delete a checkpoint and what a kill while writing left, after the artefacts are written."""
    Path(path).unlink(missing_ok=True)
    clear_partial(path)


def _read(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, verifying its hash before anything is unpickled."""
    raw = memoryview(Path(path).read_bytes())
    start = len(_MAGIC) + hashlib.sha256().digest_size
    head, payload = bytes(raw[:start]), raw[start:]
    if head != _MAGIC + hashlib.sha256(payload).digest():
        raise ArtefactError(f"checkpoint {path} is damaged: delete it and run again")
    try:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception:  # a command instead of numbers, with a right hash: not one of ours
        raise ArtefactError(
            f"checkpoint {path} was not written by mneme: delete it and run again"
        ) from None


def _numpy_text(generator: np.random.Generator) -> str:
    """Return the generator's state as JSON; its integers exceed 64 bits."""
    return json.dumps(generator.bit_generator.state, default=lambda array: array.tolist())


def _progress(label: str, done: int, steps: int, record: Mapping[str, Any], step_s: float) -> str:
    loss = f", loss {record['loss']:.4f}" if "loss" in record else ""
    left = f", {step_s * (steps - done):.0f} s left" if done < steps else ""
    return f"{label}: step {done}/{steps}{loss}, {step_s:.3g} s a step{left}"
