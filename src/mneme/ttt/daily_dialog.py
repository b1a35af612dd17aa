"""DailyDialog: everyday conversations, from a pinned commit of a data set on the hub.

Parquet files are read through pandas, which needs `pyarrow` for it: the only corpus that does.

References
----------
Li et al. (2017), "DailyDialog: a manually labelled multi-turn dialogue dataset".
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence

import pandas as pd
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mneme.core.corpora import Document
from mneme.nn.hub import dataset_file
from mneme.ttt.corpus_config import DailyDialogConfig

_COLUMN = "dialog"
_APART = re.compile(r"\s+(?=[.,!?;:%)])")
_SPLIT_WORD = re.compile(r"(?<=\w)\s*([’'])\s*(?=(?:s|m|t|d|re|ve|ll)\b)")
_LINK_OR_MAIL = re.compile(r"https?:|www\.|\S+@\S+\.\w", re.IGNORECASE)
_OTHERWISE = "or choose a corpus without daily_dialog in ttt.recipes"


class DailyDialogError(ValueError):
    """The data set cannot be had or read: one sentence with what to do."""


def fetch(config: DailyDialogConfig) -> list[list[str]]:
    """Return the turns of every conversation, file by file, from the hub or its local cache.

    Raises
    ------
    DailyDialogError
        No network and not in the cache, no access, no such data set, commit or file; damaged, or
        `pyarrow` is not installed.
    """
    found: list[list[str]] = []
    for name in config.files:
        with _explained(config, name):
            path = dataset_file(config.name, name, revision=config.revision)
        try:
            table = pd.read_parquet(path, columns=[_COLUMN])
            found += [[str(turn) for turn in turns] for turns in table[_COLUMN]]
        except ImportError:
            raise DailyDialogError(
                f"corpus {config.name} is stored as parquet: install pyarrow to read it, "
                f"{_OTHERWISE}"
            ) from None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise DailyDialogError(
                f"{name} of corpus {config.name} is damaged or has no column {_COLUMN} "
                f"({type(error).__name__}): delete it from the cache (`hf cache rm`) and run again"
            ) from None
    return found


@contextlib.contextmanager
def _explained(config: DailyDialogConfig, file: str) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence that quotes nothing of its answer."""
    try:
        yield
    except (HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        raise DailyDialogError(_sentence(config, file, error)) from None


def _sentence(config: DailyDialogConfig, file: str, error: Exception) -> str:
    who, status = (
        f"corpus {config.name}",
        getattr(getattr(error, "response", None), "status_code", 0),
    )
    away = (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, TimeoutError)
    if isinstance(error, away):
        return (
            f"{who} is not in the local cache and there is no network (or HF_HUB_OFFLINE is set): "
            f"connect, {_OTHERWISE}"
        )
    if isinstance(error, GatedRepoError):
        return f"{who} is gated: accept its licence on its page and set HF_TOKEN, {_OTHERWISE}"
    if isinstance(error, RevisionNotFoundError):
        return f"{who} has no commit {config.revision}: correct ttt.daily_dialog.revision"
    if isinstance(error, EntryNotFoundError):
        return f"{who} has no file {file}: correct ttt.daily_dialog.files"
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403):
        return f"{who} is not on the hub, or is private (HF_TOKEN): correct ttt.daily_dialog.name"
    return f"{who} cannot be fetched ({type(error).__name__}): run again later, {_OTHERWISE}"


def conversations(dialogues: Iterable[Sequence[str]]) -> list[Document]:
    """Return conversations of two people, one line a turn; group = conversation.

    Equal ones are kept once: the data set has some on both sides of its own split. Those with an
    empty turn, a link or an e-mail address are left out, as are those of one turn. Spaces that its
    tokenizer put before signs and inside short forms are taken back.

    Parameters
    ----------
    dialogues : iterable of sequences of str
        Turns of each.
    """
    kept: dict[str, str] = {}
    for place, turns in enumerate(dialogues):
        lines = [_clean(turn) for turn in turns]
        text = "\n".join(lines)
        if len(lines) > 1 and all(lines) and not _LINK_OR_MAIL.search(text):
            kept.setdefault(text, f"daily_dialog/{place:05d}")
    return [Document(name, text) for text, name in kept.items()]


def _clean(turn: str) -> str:
    return _SPLIT_WORD.sub(r"\1", _APART.sub("", " ".join(turn.split())))
