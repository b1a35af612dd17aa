"""Files out of a zip archive that may be hostile: no path outside, no link, no flood of bytes.

Nothing is written here: all names are judged before anything is unpacked, in memory.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

GROWTH = 16
"""Most bytes that all wanted files together may unpack to, in sizes of their archive; of the locked
wheels the largest needs 5."""
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, UnicodeError)
"""What zipfile raises for archives that are cut, scrambled, encrypted or of an unknown kind."""


class AssetError(ValueError):
    """An asset that is missing, damaged, unsafe or out of reach: what, where, what to do."""


def archive_files(path: str | Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Read files of a zip archive.

    Parameters
    ----------
    path : path
        The archive.
    wanted : callable
        Whether a file is read, by its name in the archive.

    Returns
    -------
    dict
        Name -> content, sorted by name.

    Raises
    ------
    AssetError
        The archive is missing or damaged, or one of the wanted files is unsafe: an absolute name,
        one with `..`, a backslash, a colon or a NUL, a link, a name that is there twice, another
        packing than a wheel's, or more bytes than `GROWTH` allows.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = [info for info in archive.infolist() if not info.is_dir()]
            chosen = sorted(
                (info for info in files if wanted(info.filename)), key=lambda info: info.filename
            )
            _refuse_unsafe(chosen, path)
            return {info.filename: _read(archive, info) for info in chosen}
    except FileNotFoundError:
        raise AssetError(f"{path} is missing: run snakemake --forcerun assets_fetch") from None
    except _DAMAGE as error:
        why = str(error) or type(error).__name__
        raise AssetError(
            f"{path} is damaged ({why}): run snakemake --forcerun assets_fetch"
        ) from None


def _refuse_unsafe(chosen: Sequence[zipfile.ZipInfo], path: str | Path) -> None:
    seen: set[str] = set()
    for info in chosen:
        if fault := _fault(info) or ("is there twice" if info.filename in seen else None):
            raise AssetError(f"{path}: member {info.orig_filename!r} {fault}: not unpacked")
        seen.add(info.filename)
    total, limit = sum(info.file_size for info in chosen), GROWTH * Path(path).stat().st_size
    if total > limit:
        raise AssetError(
            f"{path}: its members would unpack to {total} bytes, more than {GROWTH} times the "
            "archive's own size: not unpacked"
        )


def _fault(info: zipfile.ZipInfo) -> str | None:
    """Return what is unsafe about a file, None if nothing is."""
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    outside = PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
    if outside or set("\\:\0") & set(name) or kind not in (0, stat.S_IFREG):
        return "is a link or leaves the folder"
    # Other methods have no bound on what a few bytes unpack to.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is packed as no wheel is"
    return None


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Read one file, never more than the size that the archive declares (`archive.read` may)."""
    with archive.open(info) as handle:
        return handle.read(info.file_size)
