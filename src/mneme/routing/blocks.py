"""What each rule of the room is told: exactly the settings its script uses, so that nothing else
reruns it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mneme.core.backbones import BackboneConfig
from mneme.routing.config import RoutingConfig
from mneme.routing.prepare import sizes_of

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
    domains = [domain.name for domain in config.domains]
    chosen = {"backbone": backbone, "resources": resources}
    protocol, adapters = config.protocol, config.adapters
    common = {key: v for key, v in vars(adapters).items() if key not in ("runs", "headline")}
    measured = {
        "domains": domains,
        "pair": config.pair,
        "seeds": config.seeds,
        "protocol": protocol,
        "runs": config.runs,
        "original": config.original,
    }
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
        "routing_states": {**chosen, "domains": domains, "batch": protocol.batch},
        "routing_mixer_fit": lambda wildcards: {
            "name": wildcards.mixer,
            "mixer": config.mixers[wildcards.mixer],
            "calibration": config.calibration,
            "domains": domains,
            "seeds": config.seeds,
        },
        "routing_model": {
            **chosen,
            "domains": domains,
            "seeds": config.seeds,
            "batch": adapters.runs[adapters.headline].batch,
        },
        "routing_trace": {
            **chosen,
            "domains": domains,
            "pair": config.pair,
            "seed": config.prepare.seed,
            "seeds": config.seeds,
            "protocol": protocol,
            "runs": config.runs,
        },
        "routing_original": {
            **chosen,
            "domains": domains,
            "pair": config.pair,
            "seeds": config.seeds,
            "original": config.original,
        },
        "routing_adapters": {
            "domains": domains,
            "adapters": adapters,
            "resamples": protocol.resamples,
        },
        "routing_mixer": {
            "domains": domains,
            "mixers": config.mixers,
            "calibration": config.calibration,
            "seeds": config.seeds,
            "resamples": protocol.resamples,
        },
        "hysteresis": measured,
        "fatigue": measured,
    }
