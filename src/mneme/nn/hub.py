"""Where a backbone lies, and one sentence for everything that can go wrong on the way to it.

Messages never quote what the hub answered: nothing that was sent (a token) can be in them.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import get_token, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mneme.core.artefacts import ArtefactError
from mneme.core.backbones import BackboneConfig
from mneme.core.config import ConfigError
from mneme.core.revisions import kept_revision

REVISIONS = "revisions"
"""Folder below the shared resources that keeps the commits of models that are not pinned."""


class BackboneError(ValueError):
    """A backbone that cannot be had or is damaged: which one, why, what to do."""


def address(config: BackboneConfig, resources: str | Path) -> tuple[str, dict[str, Any]]:
    """Return hub id or directory of a backbone and the options of `from_pretrained`.

    Parameters
    ----------
    config : BackboneConfig
        Which backbone.
    resources : path
        Folder of the shared resources; the embedded model lies in its `models/<name>`.

    Raises
    ------
    BackboneError
        The directory does not hold a saved model.
    ArtefactError
        The file that keeps the commit of a model that is not pinned is damaged.
    """
    if config.source == "hub":
        revision = config.revision or kept_revision(
            Path(resources) / REVISIONS, config.name, lambda: _newest(config.name)
        )
        return config.name, {"revision": revision, "trust_remote_code": False}
    embedded = config.source == "embedded"
    folder = Path(resources) / "models" / config.name if embedded else Path(config.name)
    if not (folder / "config.json").is_file():
        remedy = f"run snakemake {folder}/model.safetensors" if embedded else _OTHER
        raise BackboneError(f"{folder} holds no saved model (no config.json): {remedy}")
    return str(folder), {"local_files_only": True, "trust_remote_code": False}


def _newest(name: str) -> str:
    """Return the newest commit of a hub model; without a network, the newest in the cache."""
    path = Path(hf_hub_download(name, "config.json"))
    return path.parent.name  # <cache>/snapshots/<commit>/config.json


def dataset_file(name: str, file: str, *, revision: str) -> str:
    """Return the path of one file of a hub data set at a commit, fetched or from the cache.

    What fails raises the hub client's own errors: the caller knows what to say.
    """
    return hf_hub_download(name, file, repo_type="dataset", revision=revision)


_KNOWN = (BackboneError, ConfigError, ArtefactError, MemoryError, AssertionError)
_OTHER = "give a hub id or the directory of a saved model in the config key backbone"


@contextlib.contextmanager
def explained(config: BackboneConfig, resources: str | Path) -> Iterator[None]:
    """Turn whatever `from_pretrained` raises into one sentence.

    Raises
    ------
    BackboneError
        Gated, missing, unreachable or damaged. Lack of memory or disk space passes unchanged.
    """
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or isinstance(error, _KNOWN) or _out_of_memory(error):
            raise
        if "trust_remote_code" in str(error):  # transformers' advice, which is never followed
            raise BackboneError(
                f"the model {config.name} brings code of its own, which is never run: {_OTHER}"
            ) from None
        if config.source == "hub":
            raise BackboneError(_hub_sentence(config, error)) from None
        where, line = address(config, resources)[0], (str(error).splitlines() or [""])[0][:160]
        raise BackboneError(
            f"the model in {where} is damaged or incomplete ({type(error).__name__}: {line}): "
            "delete it and make it again"
        ) from None


def _out_of_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError"  # torch's; not imported for its name


def _hub_sentence(config: BackboneConfig, error: Exception) -> str:
    kinds = tuple(_causes(error))
    who = f"backbone {config.name}"
    if _any(kinds, GatedRepoError) or _refused(kinds):
        page = config.license_url or f"https://huggingface.co/{config.name}"
        token = "its token has no access" if get_token() else "there is no token"
        return (
            f"{who} is gated and {token}: accept its licence at {page} and set HF_TOKEN or run "
            "`hf auth login`, or choose another model with the config key backbone"
        )
    if _any(kinds, RepositoryNotFoundError):
        return f"{who} is not on the hub, or is private (HF_TOKEN, `hf auth login`): {_OTHER}"
    if _any(kinds, RevisionNotFoundError):
        return f"{who} has no revision {config.revision}: correct backbones.*.revision"
    if _any(kinds, LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, TimeoutError):
        return (
            f"{who} is not in the local cache and there is no network (or HF_HUB_OFFLINE is set): "
            "connect, copy it here and give its directory in the config key backbone, or set init: "
            "random to measure speed and memory only"
        )
    return (
        f"{who} has no configuration, safetensors weights or tokenizer that transformers can read, "
        f"or its copy in the cache is damaged (`hf cache rm`) ({type(error).__name__}): {_OTHER}"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _any(errors: tuple[BaseException, ...], *kinds: type[BaseException]) -> bool:
    return any(isinstance(error, kinds) for error in errors)


def _refused(errors: tuple[BaseException, ...]) -> bool:
    """Tell whether the hub answered 401 or 403 without saying that the model is missing."""
    answers = [e.response for e in errors if isinstance(e, HfHubHTTPError)]
    missing = _any(errors, RepositoryNotFoundError, RevisionNotFoundError)
    return not missing and any(getattr(a, "status_code", None) in (401, 403) for a in answers)
