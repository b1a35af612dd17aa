"""Which commit of a hub model is read, when the configuration does not say: the first one found.

It is kept in a file, so that every job of every run below one `resources` folder reads the same
commit, whatever is pushed to the hub in between.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from mneme.core.artefacts import ArtefactError, read_json, write_json
from mneme.core.partial import partial_path

_COMMIT = re.compile("[0-9a-f]{40}")


def kept_revision(folder: str | Path, name: str, newest: Callable[[], str]) -> str:
    """Return the kept commit of a hub model; if there is none yet, ask for the newest and keep it.

    Parameters
    ----------
    folder : path
        Where commits are kept, one `<org>--<name>.json` a model.
    name : str
        Hub id, `org/name`.
    newest : callable
        Asks the hub for the newest commit, 40 hex digits; only called when none is kept.

    Returns
    -------
    str
        40 hex digits, the same in every process: of two that ask at the same moment, the first one
        decides.

    Raises
    ------
    ArtefactError
        The file is damaged.
    """
    path = Path(folder) / f"{name.replace('/', '--')}.json"
    if not path.exists():
        found = newest()
        assert _COMMIT.fullmatch(found), f"{found!r} is no commit of {name}"
        _keep_first(path, {"name": name, "revision": found})
    kept = read_json(path)
    revision = kept.get("revision") if isinstance(kept, dict) else None
    if not (isinstance(revision, str) and _COMMIT.fullmatch(revision)):
        raise ArtefactError(f"{path} is damaged (it holds no commit): delete it and run again")
    return revision


def _keep_first(path: Path, record: dict[str, str]) -> None:
    """Write a file unless another process was faster, and never half of it."""
    temporary = partial_path(path)
    write_json(temporary, record)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
