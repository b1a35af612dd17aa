"""What the Snakefile asks of the library: params of a rule, and the commit of the clone.

Snakemake compares the set of a rule's param *values*, each as its `repr`. So a block of settings
is one param with sorted keys: reordering a YAML file then reruns nothing, and two settings that
swap their values do rerun.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mneme.core.code import LIBRARY, code_of, packages_of
from mneme.core.config import ConfigError, plain, require
from mneme.core.secrets import known_secrets

T = TypeVar("T")


def stage_params(
    script: str | Path,
    block: Any,
    **further: Any,
) -> dict[str, Any]:
    """Return the params of the rule that runs `script`: `params: **stage_params(...)`.

    Parameters
    ----------
    script : path
        The rule's script.
    block : dataclass, mapping or callable
        Exactly the settings that the stage uses; or a function of the wildcards returning them.
    **further
        More params (`device`, ...), of types other than a mapping or a list.

    Returns
    -------
    dict
        `code` (hash of what the script uses), `packages` (distributions it reaches), `config`
        (plain builtins with sorted keys) and `further`.
    """
    config: Any = _per_wildcards(block) if callable(block) else canonical(block)
    return {"code": code_of(script), "packages": packages_of(script), "config": config, **further}


def canonical(value: Any) -> Any:
    """Turn settings into plain builtins whose mappings have sorted keys."""
    return _sorted(plain(value))


def or_exit(check: Callable[..., T], *arguments: Any) -> T:
    """Return `check(*arguments)`; end Snakemake with its one sentence instead of a traceback."""
    try:
        return check(*arguments)
    except ConfigError as error:
        raise SystemExit(f"ConfigError: {error}") from None


def require_writable(folder: str | Path, key: str) -> None:
    """Raise ConfigError unless `folder`, or the folder it would be made in, can be written."""
    path = Path(os.path.realpath(folder))
    there = next(place for place in (path, *path.parents) if place.exists())
    rule = f"a folder that can be written ({there} cannot: make it writable or name another)"
    require(os.access(there, os.W_OK | os.X_OK), f"config.{key}", rule, str(folder))


def require_quiet(verbose: bool, environ: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigError in a verbose Slurm job with a token: the plugin logs all variables.

    `verbose` is that of a job which Snakemake has submitted; in its own process nothing is told,
    not even within an allocation.
    """
    variables = {**environ, "HF_TOKEN_PATH": os.devnull}  # what lies in a file is not logged
    told = verbose and "SLURM_JOB_ID" in environ and bool(known_secrets(variables))
    rule = "left out in a Slurm job whose environment holds a token: it would write that to the log"
    require(not told, "--verbose", rule, verbose)


def commit_of(root: str | Path = LIBRARY) -> dict[str, Any]:
    """Return the commit of the clone around `root`: `{commit, dirty, reason}`.

    `commit` is 40 hex digits; None, with the reason, outside a git clone or before its first
    commit. `dirty` says whether tracked files differ from it.
    """
    try:
        commit = _git(root, "rev-parse", "--verify", "HEAD")
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except FileNotFoundError:
        return {"commit": None, "dirty": None, "reason": "git is not installed"}
    except subprocess.CalledProcessError as error:
        line = (error.stderr.strip().splitlines() or ["git rev-parse failed"])[0]
        return {"commit": None, "dirty": None, "reason": line}
    return {"commit": commit, "dirty": dirty, "reason": None}


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one configuration over another as Snakemake does: blocks merge, all else replaces."""
    merged = dict(base)
    for key, value in overlay.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def _per_wildcards(block: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda wildcards: canonical(block(wildcards))


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, str):
        return str(value)  # Snakemake's paths are strings that carry their rule along
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _git(root: str | Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
