"""Which rules stand upstream of a rule, and one hash over the code of all of them.

A headline file carries this hash, so that a copied results folder is refused when any code on the
way to it has changed, not only that of the last script.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from mneme.core.code import code_of

_CONVERT = "assets_convert"

NEEDS: dict[str, tuple[str, ...]] = {
    "env_check": (),
    "assets_fetch": (),
    "assets_corpora": ("assets_fetch",),
    _CONVERT: ("assets_fetch",),
    "routing_prepare": ("assets_corpora", _CONVERT),
    "model_load": ("routing_prepare",),
    "routing_adapter_fit": ("routing_prepare",),
    "routing_states": ("routing_prepare",),
    "routing_mixer_fit": ("routing_states",),
    "routing_model": ("routing_adapter_fit", "routing_mixer_fit"),
    "routing_trace": ("routing_mixer_fit",),
    "routing_original": ("routing_adapter_fit", "routing_mixer_fit"),
    "routing_adapters": ("routing_adapter_fit",),
    "routing_mixer": ("routing_mixer_fit", "routing_model"),
    "hysteresis": ("routing_trace", "routing_original"),
    "fatigue": ("routing_trace", "routing_original"),
}
"""Rule -> rules whose outputs it reads, those further up left out; a test compares it with the
graph that Snakemake builds."""


def upstream(rule: str, *, embedded: bool) -> list[str]:
    """Return `rule` and every rule upstream of it, sorted.

    Parameters
    ----------
    rule : str
        A key of `NEEDS`.
    embedded : bool
        Whether the backbone is the embedded one, which a rule makes.
    """
    found, todo = set(), [rule]
    while todo:
        name = todo.pop()
        if name not in found and (embedded or name != _CONVERT):
            found.add(name)
            todo += NEEDS[name]
    return sorted(found)


def lineage_of(rule: str, scripts: str | Path, *, embedded: bool) -> str:
    """Hash the code of `rule` and of every rule upstream of it.

    Parameters
    ----------
    rule : str
        A key of `NEEDS`.
    scripts : path
        Folder of the scripts, one a rule.
    embedded : bool
        As in `upstream`.

    Returns
    -------
    str
        16 hex digits; equal exactly when `code_of` is equal for every one of the scripts.
    """
    names = upstream(rule, embedded=embedded)
    text = "\n".join(f"{name} {code_of(Path(scripts) / f'{name}.py')}" for name in names)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
