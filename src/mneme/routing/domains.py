"""Domains and the names that they may bear: an adapter, a folder and a metric are called by them.

A name is kept away from PEFT, which keeps adapters apart by looking for names in the paths of
modules: `peft_name` gives every domain a name that no path and no other name can hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mneme.core.config import require

BASE = "base"
"""Key of the bare backbone's losses beside those of the adapters."""


@dataclass(frozen=True, kw_only=True)
class DomainConfig:
    """One domain ("epoch") and the corpus it is read from."""

    name: str
    """Adapter name: 1..64 letters, digits, - or _, the first a letter or digit; unique."""
    corpus: Literal["shakespeare", "python", "chitchat"]
    """Prepared corpus; each is split by play, file or conversation."""

    def __post_init__(self) -> None:
        require_domain(self.name, "name")


def require_domain(name: str, key: str) -> None:
    """Raise ConfigError unless a name can stand in a folder, in a metric and beside `base`."""
    fits = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name) is not None
    require(fits, key, "1..64 letters, digits, - or _, the first a letter or digit", name)
    rule = f"another name than {BASE!r}, which the bare backbone's losses bear"
    require(name.lower() != BASE, key, rule, name)
    # `held_out_loss.<domain>_minus_base` must be read in one way only.
    require("_minus_" not in name, key, "without '_minus_', which metrics put between two", name)


def require_domains(names: Sequence[str], key: str) -> None:
    """Raise ConfigError unless there are at least two names, each fit and unlike the others."""
    require(len(names) >= 2, key, "a list of at least two domains", names)
    require(len(set(names)) == len(names), key, "distinct names", names)
    for name in names:
        require_domain(name, key)
    # Some file systems hold `Plays` and `plays` to be one folder.
    folders = {name.lower() for name in names}
    require(len(folders) == len(names), key, "distinct also in lower case", names)


def peft_name(domain: str) -> str:
    """Return the name under which PEFT holds a domain's adapter.

    PEFT takes a parameter to be an adapter's when `.<name>.` stands in its path, refuses names that
    are part of `lora_` and saves `default` elsewhere. No path of a module holds an `@`.
    """
    return f"@{domain}@"


def domain_of(name: str) -> str:
    """Return the domain whose adapter PEFT holds under `name`."""
    return name.strip("@")
