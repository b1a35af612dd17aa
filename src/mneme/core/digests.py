"""SHA-256 of every finished output, so that a file that changed on the disk is never read as good.

A stage that ends well leaves `.<name>.sha256` beside each of its outputs, in the form that
`sha256sum -c` reads; the stages that read such a file compare it first. A folder that is made as a
whole (a model, an adapter) carries one list of all its files, `.folder.sha256`: a tokenizer is no
output of its own, yet decides results. A file without digest (made elsewhere, or copied without
hidden files) is read as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from mneme.core.artefacts import ArtefactError, read_text, write_text

LISTING = ".folder.sha256"
"""Digests of all files of a folder that is made as a whole."""


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sidecar(path: str | Path) -> Path:
    """Return where the digest of `path` is kept."""
    path = Path(path)
    return path.with_name(f".{path.name}.sha256")


def write_digests(paths: Iterable[str | Path]) -> None:
    """Write the digest of each of the finished files beside it."""
    for path in map(Path, paths):
        write_text(sidecar(path), f"{sha256_of(path)}  {path.name}\n")


def write_folder_digests(folder: str | Path) -> None:
    """Write the digests of all files of a folder, and of each folder below it, into one list."""
    for place in (Path(folder), *(path for path in Path(folder).rglob("*") if path.is_dir())):
        files = sorted(path for path in place.iterdir() if path.is_file())
        if files:
            lines = [f"{sha256_of(path)}  {path.name}\n" for path in files]
            write_text(place / LISTING, "".join(lines))


def forget_digests(paths: Iterable[str | Path]) -> None:
    """Delete the digests of files that are about to be made anew."""
    for path in paths:
        sidecar(path).unlink(missing_ok=True)


def verified_digests(paths: Iterable[str | Path]) -> Mapping[str, str]:
    """Hash files and compare each with what was written when it was made.

    Returns
    -------
    mapping
        Path, as given, -> SHA-256 of its content, 64 hex digits; sorted, each path once.

    Raises
    ------
    ArtefactError
        A file has another content than it was written with: names it and says what to do.
    """
    digests = {path: sha256_of(path) for path in sorted({str(path) for path in paths})}
    for path, found in digests.items():
        kept = sidecar(path)
        if kept.exists() and read_text(kept).split(" ", 1)[0] != found:
            raise _damaged(path, path)
    for folder in sorted({Path(path).parent for path in digests}):
        if (folder / LISTING).exists():
            _require_whole(folder, digests)
    return digests


def _require_whole(folder: Path, known: Mapping[str, str]) -> None:
    """Raise ArtefactError unless all files of a folder are what its list says."""
    for line in read_text(folder / LISTING).splitlines():
        digest, name = line.split("  ", 1)
        path = folder / name
        if not path.exists():
            raise ArtefactError(f"{path} is missing: delete {folder} and run snakemake again")
        if digest != (known.get(str(path)) or sha256_of(path)):
            raise _damaged(path, folder)


def _damaged(path: str | Path, remove: str | Path) -> ArtefactError:
    remedy = "delete it" if path == remove else f"delete {remove}"
    return ArtefactError(
        f"{path} is damaged (its SHA-256 is not the one it was written with): {remedy} and run "
        "snakemake again"
    )
