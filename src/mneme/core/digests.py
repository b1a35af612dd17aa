"""SHA-256 of every finished output, so that a file that changed on the disk is never read as good.

A stage that ends well leaves `.<name>.sha256` beside each of its outputs, in the form that
`sha256sum -c` reads; the stages that read such a file compare it first. A file without one (made
elsewhere, or copied without hidden files) is read as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from mneme.core.artefacts import ArtefactError, read_text, write_text


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
    digests = {}
    for path in sorted({str(path) for path in paths}):
        digests[path] = sha256_of(path)
        kept = sidecar(path)
        if kept.exists() and read_text(kept).split(" ", 1)[0] != digests[path]:
            raise ArtefactError(
                f"{path} is damaged (its SHA-256 is not the one it was written with): delete it "
                "and run snakemake again"
            )
    return digests
