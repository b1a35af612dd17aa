"""Arrays made batch by batch: finished batches survive a kill, and a rerun continues after them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from mneme.core.artefacts import ArtefactError, read_arrays, read_json, write_arrays, write_json

Arrays = Mapping[str, np.ndarray]


class Parts:
    """Folder of finished batches beside an output file.

    Parameters
    ----------
    output : path
        The final file; batches live in `<output>.parts/` until it is written.
    fingerprint : str
        Hash of code, settings and inputs: parts of anything else are thrown away.
    """

    def __init__(self, output: str | Path, *, fingerprint: str) -> None:
        self.folder = Path(f"{output}.parts")
        mark = self.folder / "made_by.json"
        if mark.exists() and _same(mark, fingerprint):
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        write_json(mark, {"fingerprint": fingerprint})

    def count(self) -> int:
        """Return how many batches are finished, counted without gaps."""
        done = 0
        while self._path(done).exists():
            done += 1
        return done

    def save(self, index: int, arrays: Arrays) -> None:
        """Write batch `index` atomically."""
        write_arrays(self._path(index), arrays)

    def join(self, count: int, *, axis: int) -> dict[str, np.ndarray]:
        """Concatenate batches 0..count-1 along `axis`.

        Raises
        ------
        ArtefactError
            A batch is missing or damaged.
        """
        batches = [read_arrays(self._path(index)) for index in range(count)]
        return {k: np.concatenate([b[k] for b in batches], axis=axis) for k in batches[0]}

    def remove(self) -> None:
        """Delete the batches, once the final file is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.npz"


def fill(
    parts: Parts, make: Callable[[int], Arrays], order: Iterable[int], *, axis: int
) -> dict[str, np.ndarray]:
    """Make every batch that is not there yet, then join all.

    Parameters
    ----------
    parts : Parts
        Where batches are kept.
    make : callable
        Batch index -> its arrays; must not depend on other batches.
    order : iterable of int
        Indices 0..n-1, e.g. wrapped in a progress bar.
    axis : int
        Axis along which batches are joined.
    """
    done, last = parts.count(), -1
    for index in order:
        last = index
        if index >= done:
            parts.save(index, make(index))
    return parts.join(last + 1, axis=axis)


def _same(mark: Path, fingerprint: str) -> bool:
    try:
        return read_json(mark)["fingerprint"] == fingerprint
    except ArtefactError:
        return False
