"""What each rule of the room is told: exactly the settings that its script uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mneme.core.backbones import BackboneConfig
from mneme.routing.config import RoutingConfig
from mneme.routing.contexts import FURTHER_CONTEXTS, wanted_contexts
from mneme.routing.prepare import sizes_of
from mneme.routing.sequences import SequenceConfig

Block = Mapping[str, Any] | Callable[[Any], Mapping[str, Any]]


def rule_blocks(
    config: RoutingConfig, backbone: BackboneConfig, *, name: str, resources: str
) -> dict[str, Block]:
    """Return rule name -> its settings, or a function of the rule's wildcards returning them.

    Parameters
    ----------
    config : RoutingConfig
        The room's settings.
    backbone : BackboneConfig
        Chosen backbone.
    name : str
        Its key in the catalogue.
    resources : str
        Folder of the shared resources.
    """
    chosen = {"backbone": backbone, "resources": resources}
    return {
        **_model_blocks(config, chosen, name=name),
        **_mixer_blocks(config, chosen),
        **_measure_blocks(config, chosen),
    }


def _names(config: RoutingConfig) -> list[str]:
    return [domain.name for domain in config.domains]


def _model_blocks(
    config: RoutingConfig, chosen: Mapping[str, Any], *, name: str
) -> dict[str, Block]:
    domains, protocol, adapters = _names(config), config.protocol, config.adapters
    common = {key: v for key, v in vars(adapters).items() if key not in ("runs", "headline")}
    return {
        "routing_prepare": {
            **chosen,
            "domains": config.domains,
            "pair": config.pair,
            "prepare": config.prepare,
            "sizes": sizes_of(config),
        },
        "model_load": {
            **chosen,
            "name": name,
            "domains": domains,
            "batch": protocol.batch,
            "resamples": protocol.resamples,
        },
        "routing_adapter_fit": lambda wildcards: {
            **chosen,
            "adapters": common,
            "name": wildcards.run,
            "run": adapters.runs[wildcards.run],
            "domains": domains,
        },
        "routing_adapters": {
            "domains": domains,
            "adapters": adapters,
            "resamples": protocol.resamples,
            "original": config.original.adapter_run,
            "tried": config.tried.adapters,
        },
    }


def _mixer_blocks(config: RoutingConfig, chosen: Mapping[str, Any]) -> dict[str, Block]:
    domains, adapters = _names(config), config.adapters
    return {
        "routing_states": {**chosen, "domains": domains, "batch": config.protocol.batch},
        "routing_mixer_fit": lambda wildcards: {
            "name": wildcards.mixer,
            "mixer": config.mixers[wildcards.mixer],
            "calibration": config.calibration,
            "domains": domains,
            "seeds": config.seeds,
            "limit": _limit(config, wildcards.mixer),
        },
        "routing_model": {
            **chosen,
            "domains": domains,
            "seeds": config.seeds,
            "batch": adapters.runs[adapters.headline].batch,
        },
        "routing_mixer": {
            "domains": domains,
            "mixers": config.mixers,
            "calibration": config.calibration,
            "seeds": config.seeds,
            "resamples": config.protocol.resamples,
            "designs": config.tried.mixer_designs,
        },
    }


def _limit(config: RoutingConfig, mixer: str) -> list[int] | None:
    """Return (chunks, tokens) of the source's own calibration, None for every other mixer."""
    original = config.original
    return [original.samples, original.tokens] if mixer == original.mixer else None


def _measure_blocks(config: RoutingConfig, chosen: Mapping[str, Any]) -> dict[str, Block]:
    read = {"domains": _names(config), "pair": config.pair, "seeds": config.seeds}
    tried = config.mixers_tried()
    measured = {
        **read,
        "tried": {
            **{name: tried[run.mixer] for name, run in config.runs.items()},
            "original": tried[config.original.mixer],
        },
        "protocol": config.protocol,
        "runs": config.runs,
        "original": config.original,
    }
    return {
        "routing_trace": lambda wildcards: {
            **chosen,
            "domains": _names(config),
            "pair": config.pair,
            "seed": config.prepare.seed,
            **_sequences(config, wildcards.phase),
        },
        "routing_original": {**chosen, **read, "original": config.original},
        "hysteresis": measured,
        "fatigue": measured,
    }


def _sequences(config: RoutingConfig, phase: str) -> dict[str, Any]:
    """Return what a trace is of: lengths and contexts, and of `protocol` nothing else."""
    protocol = config.protocol
    wanted = wanted_contexts(config.runs, FURTHER_CONTEXTS[phase])
    return {
        "contexts": {mixer: sorted(contexts) for mixer, contexts in sorted(wanted.items())},
        "sequences": SequenceConfig(
            tuples=protocol.tuples,
            segment_tokens=protocol.segment_tokens,
            mix_piece_tokens=protocol.mix_piece_tokens if phase == "hysteresis" else 1,
            dwell_tokens=protocol.dwell_tokens if phase == "fatigue" else (),
            batch=protocol.batch,
        ),
    }
