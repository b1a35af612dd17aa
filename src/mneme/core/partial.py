"""Temporary names beside final ones, and which of them nobody writes any more.

A name tells the machine and the process that writes it, so that two jobs that make the same file (a
second Snakemake, jobs that outlive the first, nodes of a cluster) never take each other's away.
"""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import re
import shutil
import time
from pathlib import Path

_HOST = re.sub(r"[^\w-]", "-", platform.node())
_LONGEST_S = 86_400.0
"""What has not changed for longer is nobody's, whoever wrote it, s."""


def partial_path(final: str | Path) -> Path:
    """Return the name under which this process writes what will be `final`."""
    final = Path(final)
    return final.with_name(f".{final.name}.{_HOST}.{os.getpid()}.part")


def clear_partial(final: str | Path) -> None:
    """Delete files and folders that killed processes have left half-written beside `final`.

    What a living process of this machine writes is let be; so is another machine's, for a day.
    """
    final = Path(final)
    for path in final.parent.glob(f".{glob.escape(final.name)}.*.part"):
        if _is_left(path, final.name):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_left(path: Path, name: str) -> bool:
    written = re.fullmatch(rf"\.{re.escape(name)}\.([\w-]+)\.(\d+)\.part", path.name)
    if written and written[1] == _HOST and not _is_alive(int(written[2])):
        return True
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.lstat().st_mtime > _LONGEST_S
    return False


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
