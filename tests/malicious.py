"""Files that run a command when they are unpickled, and the folder that the command makes."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


class Command:
    """Pickles into a call that makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def pickled(marker: Path) -> bytes:
    return pickle.dumps({"weights": Command(marker)})


def saved_by_torch(marker: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model.norm.weight": Command(marker)}, buffer)
    return buffer.getvalue()


def saved_by_old_torch(marker: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": Command(marker)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def array_of_objects(marker: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Command(marker)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def arrays_of_objects(marker: Path) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([Command(marker)], dtype=object))
    return buffer.getvalue()


FORMS: dict[str, Callable[[Path], bytes]] = {
    "pickle": pickled,
    "torch": saved_by_torch,
    "old_torch": saved_by_old_torch,
    "npy": array_of_objects,
    "npz": arrays_of_objects,
}
