"""What the suite is run on: settings of the room, a backbone with random weights, token material.

The settings are those of `config/config.yaml`, with all its runs of hysteresis and fatigue and
every mixer that they read; what the comparison with the source fixes (the adapter run, tuples,
dwell lengths) is laid over them here.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mneme.core import devices
from mneme.core.artefacts import read_json
from mneme.core.backbones import BackboneConfig
from mneme.core.config import ConfigError, build, plain
from mneme.core.corpora import read_documents
from mneme.core.seeds import numpy_generator
from mneme.core.workflow import merge
from mneme.nn.backbone import Backbone
from mneme.nn.tokenizer import byte_tokenizer, encoder
from mneme.routing.config import RoutingConfig
from mneme.routing.prepare import domain_material, sizes_of, tuples_and_works
from mneme.routing.works import PREFIX

ROOT = Path(__file__).parents[1]
TARGET_TUPLES = 50
"""Text tuples that the promise speaks of."""
TEST_WORKS = {"a": 15, "b": 33}
"""Plays and folders of files in the default's test split; intervals count them."""
SUITE = {
    "protocol": {"tuples": TARGET_TUPLES, "dwell_tokens": [16, 32, 64, 128, 256, 512, 768, 1024]},
    "prepare": {"train_chunks": 50, "train_tokens": 32},
    "adapters": {"headline": "above"},
}
FAST = {"protect": "sleep", "samples": 50, "tokens": 32, "epochs": 1, "batch": 8} | {
    "learning_rate": 1.0e-4,
    "above_gate": False,  # the source adapts every layer
}
RUNS = {"original": FAST, "above": FAST | {"above_gate": True}}
"""Only `original` is trained; the settings ask for a run above the gate."""
QUICK = {
    "seeds": [0, 1],
    "prepare": {"calibration_chunks": 12, "loss_chunks": 4, "loss_tokens": 32},
    "calibration": {"learning_rates": [3.0e-3]},
    "protocol": {"tuples": 4, "dwell_tokens": [16, 40, 64], "resamples": 200},
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run."""

    name: str
    """Name of the backbone."""
    backbone: BackboneConfig
    """The backbone, always with random weights."""
    routing: RoutingConfig
    """Settings of the room, with the adapter run `original` alone."""
    resources: Path
    """Folder of the shared resources."""
    random_tokens: bool
    """Draw token ids instead of cutting them from the corpora."""
    device: torch.device
    """Where to compute."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, in order."""
        return tuple(domain.name for domain in self.routing.domains)

    @property
    def mixers(self) -> tuple[str, ...]:
        """Names of the mixers that a run of hysteresis and fatigue reads."""
        return tuple(sorted({run.mixer for run in self.routing.runs.values()}))

    @property
    def pair(self) -> tuple[int, int]:
        """Columns of domains A and B."""
        a, b = self.routing.pair
        return self.domains.index(a), self.domains.index(b)


def read_settings(path: Path | None) -> dict[str, Any]:
    """Read what the suite needs of `config/config.yaml`, or what `--dump-settings` wrote."""
    if path is not None:
        return read_json(path)
    try:
        import yaml
    except ModuleNotFoundError:
        sentence = "PyYAML is missing: write --dump-settings elsewhere and give --settings here"
        raise SystemExit(sentence) from None
    content = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    return {key: content[key] for key in ("resources", "backbones", "routing")}


def make_plan(options: argparse.Namespace, settings: Mapping[str, Any], folder: Path) -> Plan:
    """Lay the suite's own values and the flags over the settings."""
    entry = {**(_tiny(folder) if options.backbone == "tiny" else _catalogue(options, settings))}
    entry |= {"init": "random"} | ({"dtype": options.dtype} if options.dtype else {})
    routing = merge(merge(settings["routing"], SUITE), QUICK if options.quick else {})
    routing["adapters"] = {**routing["adapters"], "runs": RUNS}
    routing["tried"] = {**routing["tried"], "adapters": dict.fromkeys(RUNS, 1)}
    if options.quick:
        routing["mixers"] = {
            k: v | {"epochs": min(2, v["epochs"])} for k, v in routing["mixers"].items()
        }
    protocol = routing["protocol"] = dict(routing["protocol"])
    protocol["tuples"] = options.tuples or protocol["tuples"]
    protocol["batch"] = options.batch or protocol["tuples"]
    return Plan(
        name=options.backbone,
        backbone=build(BackboneConfig, entry, where=f"backbones.{options.backbone}"),
        routing=build(RoutingConfig, routing, where="routing"),
        resources=ROOT / settings["resources"],
        random_tokens=options.random_tokens,
        device=devices.resolve(options.device),
    )


def _catalogue(options: argparse.Namespace, settings: Mapping[str, Any]) -> dict[str, Any]:
    known = settings["backbones"]
    if options.backbone not in known:
        raise ConfigError(f"--backbone must be tiny or one of {', '.join(known)}")
    return known[options.backbone]


def _tiny(folder: Path) -> dict[str, Any]:
    """Write shape and tokenizer of a Llama of 4 layers of width 64; return its catalogue entry."""
    from transformers import LlamaConfig

    shape = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    )
    shape.save_pretrained(folder / "tiny")
    byte_tokenizer().save_pretrained(folder / "tiny")
    place = {"source": "local", "name": str(folder / "tiny"), "revision": None, "license_url": ""}
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return place | {
        "init": "random",
        "dtype": "float32",
        "gate_layer": 2,
        "target_modules": targets,
    }


def material(plan: Plan, backbone: Backbone) -> dict[str, np.ndarray]:
    """Cut the room's material from the corpora, or draw random ids of the same shapes."""
    routing, sizes = plan.routing, sizes_of(plan.routing)
    if plan.random_tokens:
        vocab = backbone.model.config.vocab_size
        generator = numpy_generator(routing.prepare.seed, "suite", "random tokens")
        shapes = material_shapes(plan)
        ids = {k: generator.integers(vocab, size=s, dtype=np.int32) for k, s in shapes.items()}
        return ids | drawn_works(shapes)
    encode = encoder(backbone.tokenizer)
    arrays, pools = {}, {}
    for domain in routing.domains:
        parts, pools[domain.name] = domain_material(
            read_documents(plan.resources / "corpora" / f"{domain.corpus}.jsonl"),
            encode,
            routing.prepare,
            name=domain.name,
        )
        arrays |= {f"{domain.name}.{part}": ids for part, ids in parts.items()}
    tuples, works = tuples_and_works(pools, routing.pair, sizes, seed=routing.prepare.seed)
    arrays |= tuples
    assert {name: ids.shape for name, ids in arrays.items()} == material_shapes(plan)
    return arrays | works


def drawn_works(shapes: Mapping[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    """Name as many plays and folders for the passages of the tuples as the test split has."""
    return {
        f"{PREFIX}{name}": np.array([f"work {i % TEST_WORKS[name[0]]}" for i in range(texts)])
        for name, (texts, _) in shapes.items()
        if "." not in name
    }


def material_shapes(plan: Plan) -> dict[str, tuple[int, int]]:
    """Return the shapes of what `mneme.routing.prepare` cuts."""
    config, sizes = plan.routing.prepare, sizes_of(plan.routing)
    held_out, length = max(2, config.calibration_chunks // 3), config.chunk_tokens
    parts = {
        "train": (config.train_chunks, config.train_tokens),
        "calibration": (config.calibration_chunks, length),
        "validation": (held_out, length),
        "test": (held_out, length),
        "loss": (config.loss_chunks, config.loss_tokens),
    }
    shapes = {f"{d}.{part}": shape for d in plan.domains for part, shape in parts.items()}
    middles = ("a_long", "a_other_long", "b_long")
    shapes |= {name: (sizes.tuples, sizes.long_tokens) for name in middles}
    pieces = ("a1", "a2", "b1", "b2")
    return shapes | {name: (sizes.tuples, sizes.segment_tokens) for name in pieces}


def settings_of(plan: Plan) -> dict[str, Any]:
    """Return what decides the amount of work."""
    config, backbone = plan.routing, plan.backbone
    return {
        "backbone": {"name": plan.name, "dtype": backbone.dtype, "init": backbone.init},
        "gate_layer": backbone.gate_layer,
        "tokens": "random ids" if plan.random_tokens else "corpora",
        "adapter_run": plain(config.adapters.runs["original"]),
        "mixers": {name: plain(config.mixers[name]) for name in plan.mixers},
        "mixer_seeds": list(config.seeds),
        "prepare": plain(config.prepare),
        "protocol": plain(config.protocol),
        "runs": plain(config.runs),
    }
