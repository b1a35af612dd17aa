"""Which rules stand upstream of a rule, and one hash over the code of all of them.

A headline file carries this hash, so that a copied results folder is refused when any code on the
way to it has changed, not only that of the last script. Every room names the needs of its rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from mneme.core.code import code_of

Needs = Mapping[str, tuple[str, ...]]
"""Rule -> rules whose outputs it reads, those further up left out."""

CONVERT = "assets_convert"
SHARED: Needs = {
    "env_check": (),
    "assets_fetch": (),
    "assets_corpora": ("assets_fetch",),
    CONVERT: ("assets_fetch",),
    "assets_minilm": ("assets_fetch",),
}
"""Needs of the rules that belong to no room; a test compares all needs with the graph that
Snakemake builds."""


def upstream(rule: str, needs: Needs) -> list[str]:
    """Return `rule` and every rule upstream of it, sorted.

    Parameters
    ----------
    rule : str
        A key of `needs`.
    needs : mapping
        Needs of all rules.
    """
    found, todo = set(), [rule]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += needs[name]
    return sorted(found)


def lineage_of(rule: str, scripts: str | Path, needs: Needs) -> str:
    """Hash the code of `rule` and of every rule upstream of it.

    Parameters
    ----------
    rule, needs
        As in `upstream`.
    scripts : path
        Folder of the scripts, one a rule.

    Returns
    -------
    str
        16 hex digits; equal exactly when `code_of` is equal for every one of the scripts.
    """
    return lineages(scripts, needs)(rule)


def lineages(scripts: str | Path, needs: Needs) -> Callable[[str], str]:
    """Return `lineage_of` as a function of the rule alone that reads every script once.

    For the workflow, whose files do not change while it is parsed: its headline files share most of
    what is upstream of them.
    """
    code = cache(lambda name: code_of(Path(scripts) / f"{name}.py"))

    def lineage(rule: str) -> str:
        text = "\n".join(f"{name} {code(name)}" for name in upstream(rule, needs))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    return lineage
