"""Read and write every file of the pipeline: atomically, strictly, never half-written.

A file appears under its final name only when it is complete (temporary sibling, fsync, rename).
JSON is strict (no NaN); arrays are `.npz` without pickle; tensors are safetensors.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mneme.core.partial import clear_partial, partial_path

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure


class ArtefactError(ValueError):
    """A file that is missing, damaged or cannot be written: names what, where, what to do."""


@contextlib.contextmanager
def atomic_path(final: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `final` that is renamed onto it only on success.

    Raises
    ------
    ArtefactError
        When the disk is full or cannot be written; the temporary file is removed.
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial_path(final)
    clear_partial(final)
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        share(temporary)
        temporary.replace(final)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ArtefactError(
                f"no space left on the disk while writing {final}: free some space and run again"
            ) from error
        if error.filename == str(temporary) and error.errno in (errno.EROFS, errno.EACCES):
            raise ArtefactError(
                f"{final} cannot be written ({error.strerror}): make its folder writable and run "
                "again"
            ) from error
        raise
    finally:
        with contextlib.suppress(OSError):  # of a disk that cannot be written
            temporary.unlink(missing_ok=True)


def share(path: str | Path) -> None:
    """Give a new file the mode of the user's mask; some writers leave theirs private (0600)."""
    mask = os.umask(0o077)
    os.umask(mask)
    Path(path).chmod(0o666 & ~mask)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: str | Path) -> str:
    """Read UTF-8 text.

    Raises
    ------
    ArtefactError
        The file is missing or no text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing: run snakemake again to make it") from None
    except ValueError as error:
        raise ArtefactError(_damaged(path, error)) from None


def write_json(path: str | Path, value: Any) -> None:
    """Write strict JSON (sorted keys, no NaN) atomically.

    Raises
    ------
    ValueError
        When `value` holds a NaN or an infinity: undefined values are `None` beside a reason.
    """
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read strict JSON; raises `ArtefactError` when the file is missing or damaged."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not strict JSON")

    try:
        return json.loads(read_text(path), parse_constant=refuse)
    except ArtefactError:
        raise
    except (ValueError, RecursionError) as error:
        raise ArtefactError(_damaged(path, error)) from None


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named numpy arrays as one uncompressed `.npz`, atomically, without pickle."""
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, allow_pickle=False, **arrays)  # type: ignore[arg-type]


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read all arrays of an `.npz`; raises `ArtefactError` when missing or damaged."""
    try:
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it holds other things than arrays")
        return arrays
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing: run snakemake again to make it") from None
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ArtefactError(_damaged(path, error)) from None


def write_array(path: str | Path, array: np.ndarray) -> None:
    """Write one numpy array as `.npy`, atomically, without pickle."""
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, array, allow_pickle=False)


def read_array(path: str | Path) -> np.ndarray:
    """Read the array of a `.npy`; raises `ArtefactError` when missing or damaged."""
    try:
        with open(path, "rb") as handle:
            array = np.load(handle, allow_pickle=False)
            if not isinstance(array, np.ndarray):
                raise ValueError("not one array")
            return array
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing: run snakemake again to make it") from None
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ArtefactError(_damaged(path, error)) from None


def write_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write named tensors as safetensors, atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)
        except SafetensorError as error:  # the system's error number survives only in its text
            found = re.search(r"os error (\d+)", str(error))
            if found:
                number = int(found[1])
                raise OSError(number, os.strerror(number), str(temporary)) from error
            raise


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a safetensors file; raises `ArtefactError` when missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing: run snakemake again to make it") from None
    except (SafetensorError, OSError) as error:
        raise ArtefactError(_damaged(path, error)) from None


def save_figure(figure: Figure, *, svg: str | Path, png: str | Path) -> None:
    """Write one matplotlib figure as SVG and PNG, atomically and without dates inside."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "mneme"}):
        with atomic_path(svg) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
        with atomic_path(png) as temporary:
            figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def _damaged(path: str | Path, error: Exception) -> str:
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{path} is damaged ({line}): delete it and run snakemake again"
