"""Where the room's files lie: `<results>/routing/<step>/<backbone>/<run>/seed<n>/`."""

from __future__ import annotations

from dataclasses import dataclass

from mneme.routing.config import RoutingConfig

WEIGHTS = "adapter_model.safetensors"
"""Name that PEFT gives an adapter's weights."""


@dataclass(frozen=True, kw_only=True)
class RoutingPaths:
    """Addresses below one results folder and one backbone."""

    results: str
    """Results folder."""
    backbone: str
    """Key of the backbone."""
    config: RoutingConfig
    """Names and seeds."""

    def step(self, step: str, *path: str) -> str:
        """Return a path below the folder of a step."""
        return "/".join([self.results, "routing", step, self.backbone, *path])

    def adapter_seeds(self, run: str, *path: str) -> list[str]:
        """Return a path of an adapter run for every adapter seed."""
        seeds = self.config.adapters.seeds
        return [self.step("adapter_fit", run, f"seed{seed}", *path) for seed in seeds]

    def adapter_weights(self, run: str) -> list[str]:
        """Return the weights of every domain's adapter under every adapter seed."""
        return [
            path
            for domain in self.config.domains
            for path in self.adapter_seeds(run, "adapters", domain.name, WEIGHTS)
        ]

    def begun(self, run: str) -> list[str]:
        """Return what run `none` made of the first domain, if this run would make the same."""
        if not self.config.adapters.like_none(run):
            return []
        weights = ("adapters", self.config.domains[0].name, WEIGHTS)
        parts = ("losses.json",), ("history.json",), weights
        return [path for part in parts for path in self.adapter_seeds("none", *part)]

    def first_adapters(self, run: str) -> list[str]:
        """Return the weights of every domain's adapter under the first adapter seed."""
        domains = self.config.domains
        return [self.adapter_seeds(run, "adapters", domain.name, WEIGHTS)[0] for domain in domains]

    def mixer_seeds(self, step: str, *path: str) -> list[str]:
        """Return a file of a step for every mixer seed; the last part is the file's name."""
        *run, name = path
        return [self.step(step, *run, f"seed{seed}", name) for seed in self.config.seeds]

    def mixer_start(self, mixer: str) -> list[str]:
        """Return the records of `ours` when this mixer continues from it, else nothing."""
        fresh = self.config.mixers[mixer].init == "fresh"
        return [] if fresh else self.mixer_seeds("mixer_fit", "ours", "mixer.json")
