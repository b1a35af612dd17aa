"""All settings of the pipeline as one frozen tree, checked before the first job runs.

Only the Snakefile, `cli.py` and tests import this module: a script builds its own block, so that
an edit elsewhere reruns nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mneme.core.assets import AssetsConfig
from mneme.core.backbones import BackboneConfig
from mneme.core.config import ConfigError, build, plain, require
from mneme.lattice.settings import LatticeConfig
from mneme.report.claims_config import ClaimConfig, require_claim_ids
from mneme.routing.config import RoutingConfig
from mneme.ttt.settings import TTTConfig
from mneme.zeta.settings import ZetaConfig

CORPORA = ("shakespeare", "python", "chitchat")
"""Corpora that `rules/assets.smk` makes."""
EMBEDDED = ("smollm2-135m", "minilm")
"""Models that `rules/assets.smk` makes; the first is a language model."""
_HUB_ID = re.compile(r"(?P<name>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[0-9a-f]{40}))?")


@dataclass(frozen=True, kw_only=True)
class OtherBackboneConfig:
    """How a backbone is used that is given as a hub id or a directory, not by a catalogue name."""

    init: Literal["pretrained", "random"]
    """random: weights drawn from the architecture's own initialiser; speed and memory only."""
    dtype: Literal["float32", "bfloat16"]
    """Precision of the frozen weights."""
    gate_layer: int
    """Layer k whose output the Time Mixer reads; adapters sit above it (0 = embeddings)."""
    target_modules: tuple[str, ...]
    """Names of the linear layers that carry an adapter; GPT-2 has others than Llama and its kin."""

    def __post_init__(self) -> None:
        targets = self.target_modules
        require(len(targets) > 0, "target_modules", "a list of at least one name", targets)
        require(self.gate_layer >= 0, "gate_layer", "at least 0", self.gate_layer)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything in `config/*.yaml`."""

    results: str
    """Output folder; one per backbone or size, so that nothing is overwritten."""
    resources: str
    """Folder of wheels, corpora and models, shared by all sizes."""
    device: Literal["auto", "cpu", "cuda"]
    """Where torch computes; cuda never falls back to the CPU."""
    threads: int
    """Threads of each computing job, at least 1; results are identical for equal threads."""
    backbone: str
    """A name of `backbones`, a hub id (org/name, or org/name@commit), or a directory."""
    backbones: dict[str, BackboneConfig]
    """Catalogue of frozen language models."""
    contexts: dict[str, int]
    """Positions that each backbone of the catalogue can read, tokens; only checked, never used (of
    others, the model itself is asked when it is loaded)."""
    other_backbone: OtherBackboneConfig
    """How a `backbone` outside the catalogue is used."""
    assets: AssetsConfig
    """Wheels, model and corpora of the embedded default."""
    routing: RoutingConfig
    """Room `routing`."""
    zeta: ZetaConfig
    """Room `zeta`."""
    ttt: TTTConfig
    """Room `ttt`."""
    lattice: LatticeConfig
    """Room `lattice`."""
    claims: dict[str, ClaimConfig]
    """The claims ledger (config/claims.yaml): id -> what the source says and how it is decided."""

    def __post_init__(self) -> None:
        for name in ("results", "resources"):
            folder = getattr(self, name)
            require(folder.strip() != "", name, "a folder", folder)
            _require_path(folder, name)
        require(self.assets.lock.strip() != "", "assets.lock", "a file", self.assets.lock)
        _require_path(self.assets.lock, "assets.lock")
        members = self.assets.corpora.members
        rule = f"one entry for each of {', '.join(CORPORA)}"
        require(set(members) == set(CORPORA), "assets.corpora.members", rule, [*members])
        for name in self.backbones:
            fits = re.fullmatch(r"\w[\w. @+-]*", name) is not None
            rule = "named by letters, digits, _ . - + @ or spaces, as their folders are"
            require(fits, "backbones", rule, name)
        apart = os.path.realpath(self.results) != os.path.realpath(self.resources)
        require(apart, "results", "a folder other than resources", self.results)
        require(self.threads >= 1, "threads", "at least 1", self.threads)
        known = set(self.contexts) <= set(self.backbones)
        require(known, "contexts", f"by names out of {sorted(self.backbones)}", self.contexts)
        require_claim_ids(self.claims)
        if self.backbone in self.contexts:
            _refuse_overlong(self.routing, self.backbone, self.contexts[self.backbone])

    @property
    def chosen(self) -> BackboneConfig:
        """Return the catalogue entry of the chosen backbone."""
        return self.backbones[self.backbone]


def _require_path(path: str, key: str) -> None:
    """Raise ConfigError unless Snakemake reads `path` as it stands: { and } mark its wildcards."""
    ok = path.isprintable() and not set("{}") & set(path)
    require(ok, key, "a path of one line without { and }", path)


def _refuse_overlong(routing: RoutingConfig, backbone: str, context: int) -> None:
    """Raise ConfigError when a sequence of the room is longer than the backbone's context."""
    ends = 2 * routing.protocol.segment_tokens
    # The prompts' tokens are not known yet: at least one before and one after the block.
    sampled = 2 + max(routing.original.dwell_tokens) + routing.original.new_tokens
    lengths = {
        "protocol.dwell_tokens": ends + max(routing.protocol.dwell_tokens),
        "protocol.segment_tokens": ends + routing.protocol.segment_tokens,
        "original.new_tokens": sampled,
        "prepare.chunk_tokens": routing.prepare.chunk_tokens,
        "prepare.loss_tokens": routing.prepare.loss_tokens,
    }
    for name, run in routing.adapters.runs.items():
        lengths[f"adapters.runs.{name}.tokens"] = run.tokens
    for key, tokens in lengths.items():
        rule = f"shorter: its sequences must fit the {context} tokens of {backbone}'s context"
        require(tokens <= context, f"routing.{key}", rule, f"{tokens} tokens in all")


def load_settings(config: Mapping[str, Any]) -> Settings:
    """Build and check all settings.

    Parameters
    ----------
    config : mapping
        Snakemake's merged `config`.

    Returns
    -------
    Settings
        `backbone` is always a name of `backbones`: a hub id `org/name` or a directory `path/name`
        becomes an entry `org--name` or `local--name`, made with `other_backbone`. Its revision is
        None (the newest commit when first asked for) unless given as `org/name@commit`.

    Raises
    ------
    ConfigError
        In one sentence: the key, the rule and the value.
    """
    settings = build(Settings, config, where="config")
    if settings.backbone not in settings.backbones:
        name, entry = _other(settings.backbone, settings)
        backbones = {**config["backbones"], name: entry}
        settings = build(
            Settings, {**config, "backbone": name, "backbones": backbones}, where="config"
        )
    _require_places(settings)
    return settings


def _require_places(settings: Settings) -> None:
    """Raise ConfigError unless folders can be made and models are where the workflow looks."""
    for name in ("results", "resources"):
        folder = getattr(settings, name)
        rule = "a folder, or where one can be made"
        require(_can_be_folder(Path(folder)), f"config.{name}", rule, folder)
    lock = settings.assets.lock
    require(_is_file(Path(lock)), "config.assets.lock", "a file", lock)
    models = {f"backbones.{settings.backbone}": (settings.chosen, EMBEDDED[:1])}
    teachers = settings.lattice.teachers
    models |= {f"lattice.teachers.{n}": (teachers[n], EMBEDDED) for n in settings.lattice.runs}
    for key, (model, embedded) in models.items():
        at, name = f"config.{key}.name", model.name
        if model.source == "embedded":
            rule = f"one of {', '.join(embedded)} where source is embedded"
            require(name in embedded, at, rule, name)
        if model.source == "local":
            _require_path(name, at)
            holds = name != "" and _is_file(Path(name) / "config.json")
            require(holds, at, "a directory that holds config.json of a saved model", name)


def _can_be_folder(folder: Path) -> bool:
    """Return whether a folder is there, or nothing is in its way and its name is not too long."""
    try:
        return all(p.is_dir() or not os.path.lexists(p) for p in (folder, *folder.parents))
    except OSError:
        return False


def _is_file(path: Path) -> bool:
    """Return whether a file is there; no name is too long to ask."""
    try:
        return path.is_file()
    except OSError:
        return False


def _other(choice: str, settings: Settings) -> tuple[str, dict[str, Any]]:
    """Return name and catalogue entry of a backbone given as hub id or directory."""
    use = settings.other_backbone
    entry: dict[str, Any] = plain(use)
    directory = _directory(choice)
    if directory is not None:
        holds = _is_file(directory / "config.json")
        require(
            holds, "config.backbone", "a directory that holds config.json of a saved model", choice
        )
        entry |= {"source": "local", "name": str(directory), "revision": None, "license_url": ""}
        return f"local--{directory.resolve().name}", entry
    hub = _HUB_ID.fullmatch(choice)
    if hub is None:
        raise ConfigError(
            f"config.backbone must be one of {', '.join(sorted(settings.backbones))}, a hub id "
            f"(org/name or org/name@commit) or an existing directory, got {choice!r}"
        )
    page = f"https://huggingface.co/{hub['name']}"
    entry |= {"source": "hub", "name": hub["name"], "revision": hub["revision"]}
    return hub["name"].replace("/", "--"), {**entry, "license_url": page}


def _directory(choice: str) -> Path | None:
    """Return the directory that `choice` names, None when it names none."""
    try:
        directory = Path(choice).expanduser()
        return directory if choice and directory.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long, nobody's home, no text
        return None
