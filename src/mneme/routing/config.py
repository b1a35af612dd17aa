"""Settings of the room: domains, adapters, mixers, protocol, runs (no torch here)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mneme.core.config import require
from mneme.routing.domains import DomainConfig, require_domains

Strategy = Literal["gating", "attention", "ema", "ema_oracle", "token", "probe"]
Context = Literal["real", "reset", "same_domain", "swapped", "blocked", "shuffled"]
TAIL_AREA = 32
"""Tokens of the second A that `tail_area_32` sums over; a segment is at least as long."""


def _require_names(names: Iterable[str], key: str) -> None:
    """Raise ConfigError unless all names can stand in a path, a wildcard and a metric."""
    for name in names:
        fits = re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None
        require(fits, key, "named by a letter, then letters, digits or _, all lower case", name)
        require("_minus_" not in name, key, "named without _minus_, which names contrasts", name)


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How documents become disjoint token material."""

    seed: int
    """Seed of the split and of the choice of passages; the same under every training seed."""
    train_share: float
    """Share of documents for adapters, 0..1."""
    calibration_share: float
    """Share for mixers, 0..1: their calibration chunks, and those that validate them; the rest is
    test."""
    train_chunks: int
    """Chunks a domain from which adapter runs take their samples."""
    train_tokens: int
    """Their length, tokens; adapter runs use the first ones."""
    chunk_tokens: int
    """Length of a calibration chunk, tokens."""
    calibration_chunks: int
    """Calibration chunks a domain; a further third as many (at least 2) validate, another third, of
    the test share, measure accuracy."""
    loss_chunks: int
    """Held-out chunks a domain on which next-token losses are measured."""
    loss_tokens: int
    """Length of a held-out loss chunk, tokens."""

    def __post_init__(self) -> None:
        shares = (self.train_share, self.calibration_share)
        ok = min(shares) > 0 and sum(shares) < 1
        require(ok, "train_share", "positive, with calibration_share below 1 in sum", shares)
        require(self.train_chunks >= 1, "train_chunks", "at least 1", self.train_chunks)
        require(self.train_tokens >= 4, "train_tokens", "at least 4", self.train_tokens)
        for name in ("chunk_tokens", "calibration_chunks", "loss_chunks", "loss_tokens"):
            require(getattr(self, name) >= 4, name, "at least 4", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class AdapterRunConfig:
    """One way of training the domains' adapters one after another."""

    protect: Literal["none", "sleep", "replay"]
    """What protects earlier domains while a new one trains (sleep: KL to the frozen snapshot)."""
    samples: int
    """Training chunks a domain, at least 1."""
    tokens: int
    """Length of a training chunk, tokens, at least 4."""
    epochs: int
    """Passes over the chunks, at least 1."""
    batch: int
    """Chunks a step, at least 1."""
    learning_rate: float
    """AdamW learning rate, in (0, 1)."""
    above_gate: bool
    """True: adapters only on layers above the gate layer; False: on every layer."""

    def __post_init__(self) -> None:
        for name in ("samples", "epochs", "batch"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.tokens >= 4, "tokens", "at least 4", self.tokens)
        require(0 < self.learning_rate < 1, "learning_rate", "in (0, 1)", self.learning_rate)


@dataclass(frozen=True, kw_only=True)
class AdaptersConfig:
    """LoRA adapters: one a domain."""

    rank: int
    """LoRA rank r, at least 1."""
    alpha: float
    """LoRA alpha, above 0; the update is scaled by alpha / r."""
    sleep_weight: float
    """lambda of Active Sleep (and weight of the replayed loss), >= 0."""
    sleep_temperature: float
    """T of Active Sleep, > 0."""
    seeds: tuple[int, ...]
    """Training seeds of the adapters."""
    headline: str
    """Adapter run whose adapters are mixed and saved as the model of the room; its `above_gate` is
    true, because the gate must be known before the first adapter."""
    runs: dict[str, AdapterRunConfig]
    """Run name (a letter, then letters, digits or _, all lower case) -> training; the ablation none
    / sleep / replay, and the source's own."""

    def __post_init__(self) -> None:
        require(self.rank >= 1, "rank", "at least 1", self.rank)
        require(self.alpha > 0, "alpha", "positive", self.alpha)
        require(self.sleep_weight >= 0, "sleep_weight", "at least 0", self.sleep_weight)
        require(self.sleep_temperature > 0, "sleep_temperature", "> 0", self.sleep_temperature)
        require(len(self.seeds) > 0, "seeds", "a list of at least one seed", self.seeds)
        require(len(set(self.seeds)) == len(self.seeds), "seeds", "distinct", self.seeds)
        _require_names(self.runs, "runs")
        fit = sorted(name for name, run in self.runs.items() if run.above_gate)
        rule = f"one of {fit} (runs with above_gate: true)"
        require(self.headline in fit, "headline", rule, self.headline)

    def like_none(self, run: str) -> bool:
        """Tell whether a run differs from run `none` in what it protects, and in nothing else."""
        none, own = self.runs.get("none"), dataclasses.replace(self.runs[run], protect="none")
        return run != "none" and own == none


@dataclass(frozen=True, kw_only=True)
class MixerConfig:
    """One Time Mixer and how it is calibrated."""

    strategy: Strategy
    """gating: MLP on the state of layer k; attention: causal attention over those states; ema:
    gating logits smoothed; ema_oracle: the smoother on +-L of the known domain; token: MLP on a
    learnt token embedding (memoryless); probe: linear probe on the state."""
    hidden: int
    """Width of the hidden layer (of the embedding and hidden layer for token), at least 1."""
    decay: float
    """Smoothing a of `ema` and `ema_oracle`: z_i = a z_(i-1) + (1 - a) x_i, 0 <= a < 1."""
    oracle_logit: float
    """L of `ema_oracle`: logit +L for the true domain, -L for the others."""
    epochs: int
    """Calibration epochs; 0 leaves the mixer untrained."""
    labels: Literal["true", "shuffled"]
    """shuffled: domain labels permuted over chunks (control)."""
    init: Literal["fresh", "continue"]
    """continue: start from the weights of mixer `ours` of the same seed."""

    def __post_init__(self) -> None:
        require(self.hidden >= 1, "hidden", "at least 1", self.hidden)
        require(0 <= self.decay < 1, "decay", "in [0, 1)", self.decay)
        require(self.oracle_logit > 0, "oracle_logit", "positive", self.oracle_logit)
        require(self.epochs >= 0, "epochs", "at least 0", self.epochs)

    def trains(self) -> bool:
        """Tell whether it has parameters that are calibrated."""
        return self.epochs > 0 and self.strategy != "ema_oracle"


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Contrastive calibration of every mixer."""

    batch: int
    """Chunks a step, at least 2."""
    learning_rates: tuple[float, ...]
    """AdamW learning rates tried, each in (0, 1); the best on validation is kept."""
    recency: float
    """Pooling weight of token i of T is proportional to exp(recency * i / T)."""
    contrast_weight: float
    """Weight of the supervised-contrastive term over pooled states, >= 0."""
    contrast_temperature: float
    """Temperature of that term, > 0."""

    def __post_init__(self) -> None:
        require(self.batch >= 2, "batch", "at least 2", self.batch)
        rates = self.learning_rates
        ok = len(rates) > 0 and all(0 < rate < 1 for rate in rates)
        require(ok, "learning_rates", "at least one, each in (0, 1)", rates)
        require(self.contrast_weight >= 0, "contrast_weight", ">= 0", self.contrast_weight)
        temperature = self.contrast_temperature
        require(temperature > 0, "contrast_temperature", "> 0", temperature)


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """Teacher-forced sequences with known boundaries, and what is read off them."""

    tuples: int
    """Text tuples (A1, B, A2, ...) from the test split, at least 2."""
    segment_tokens: int
    """Length of each segment, tokens, at least 32 (the window of `tail_area_32`)."""
    mix_piece_tokens: int
    """Length of the alternating pieces of A and B in the mixed segment, tokens, at most half of it:
    the segment ends in a whole piece of B and holds one of A."""
    dwell_tokens: tuple[int, ...]
    """Dwell lengths n of B in A -> B(n) -> A, tokens, increasing."""
    batch: int
    """Tuples a forward pass, at least 1."""
    threshold: float
    """Headline theta of switch_lag, in [0.5, 1)."""
    thresholds: tuple[float, ...]
    """Thetas of the curve, each in [0.5, 1); the headline's is one of them."""
    run_tokens: int
    """Tokens in a row that must reach theta (K_run), at most the shortest segment or dwell."""
    gap_tokens: int
    """First tokens of the second A on which return gaps are also measured, 1..segment_tokens."""
    deep_weight: float
    """Weight above which a token counts as deep, in (0, 1)."""
    resamples: int
    """Bootstrap and permutation resamples, at least 100."""

    def __post_init__(self) -> None:
        require(self.tuples >= 2, "tuples", "at least 2", self.tuples)
        require(self.batch >= 1, "batch", "at least 1", self.batch)
        segment, piece = self.segment_tokens, self.mix_piece_tokens
        rule = f"at least {TAIL_AREA}, the window of tail_area_{TAIL_AREA}"
        require(segment >= TAIL_AREA, "segment_tokens", rule, segment)
        rule = f"1..{segment // 2}, half of segment_tokens: a piece of B at the end, one of A"
        require(1 <= piece <= segment // 2, "mix_piece_tokens", rule, piece)
        dwell = self.dwell_tokens
        ok = len(dwell) >= 3 and list(dwell) == sorted(set(dwell)) and dwell[0] >= 4
        require(ok, "dwell_tokens", "at least 3 increasing lengths from 4 up", dwell)
        run, shortest = self.run_tokens, min(segment, *dwell)
        rule = f"1..{shortest}, the shortest of segment_tokens and dwell_tokens"
        require(1 <= run <= shortest, "run_tokens", rule, run)
        require(1 <= self.gap_tokens <= segment, "gap_tokens", "1..segment_tokens", self.gap_tokens)
        self._check_weights()

    def _check_weights(self) -> None:
        thetas = self.thresholds
        require(0.5 <= self.threshold < 1, "threshold", "in [0.5, 1)", self.threshold)
        require(self.threshold in thetas, "thresholds", "holding threshold", thetas)
        ok = all(0.5 <= theta < 1 for theta in thetas)
        require(ok, "thresholds", "each in [0.5, 1)", thetas)
        require(0 < self.deep_weight < 1, "deep_weight", "in (0, 1)", self.deep_weight)
        require(self.resamples >= 100, "resamples", "at least 100", self.resamples)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run of hysteresis and fatigue: a mixer read on one kind of sequence."""

    mixer: str
    """Name of the mixer."""
    context: Context
    """real: A1 B A2; reset: A2 alone at the same position ids; same_domain: A1 A' A2; swapped:
    B1 A' B2; blocked: A1 B A2 with attention from A2 to B cut; shuffled: B's tokens permuted."""
    control_of: str | None
    """Run of which this is a control, another one; null for a run that is none."""


@dataclass(frozen=True, kw_only=True)
class OriginalConfig:
    """The source's own protocol: sampled continuation, switch points from the weights."""

    adapter_run: str
    """Adapter run whose adapters generate."""
    mixer: str
    """Mixer that routes (the source's sees token ids only), calibrated as below."""
    samples: int
    """Calibration chunks a domain for that mixer."""
    tokens: int
    """Their length, tokens."""
    prompts: dict[str, str]
    """Domain name -> prompt."""
    mix_prompt: str
    """Prompt of the mixed segment."""
    new_tokens: int
    """Sampled tokens a sequence (the source samples up to 150), at least 1."""
    temperature: float
    """Sampling temperature."""
    tail_tokens: int
    """Window: last tokens of a segment that enter its return gap (the source: 10), at least 1."""
    area_tokens: int
    """Window of its tail area (named 32, spans 20 in its code), tokens, at least 1."""
    dwell_tokens: tuple[int, ...]
    """Lengths of its Python blocks, tokens (22, 50, 96), at least two, each at least 1."""
    threshold: float
    """Theta of its switch lag, in (0, 1)."""

    def __post_init__(self) -> None:
        for name in ("tokens", "new_tokens", "tail_tokens", "area_tokens"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.samples >= 2, "samples", "at least 2", self.samples)
        require(self.temperature > 0, "temperature", "positive", self.temperature)
        ok = len(self.dwell_tokens) >= 2 and min(self.dwell_tokens) >= 1
        require(ok, "dwell_tokens", "at least two lengths from 1 up", self.dwell_tokens)
        require(0 < self.threshold < 1, "threshold", "in (0, 1)", self.threshold)


@dataclass(frozen=True, kw_only=True)
class TriedConfig:
    """Configurations compared before these settings were fixed, told in every headline file."""

    adapters: dict[str, int]
    """Adapter run -> learning rates and epochs compared on validation material, the one in use
    among them, at least 1."""
    mixer_designs: int
    """Designs of the gate (layer, width, loss), the one in use among them, at least 1; each mixer
    that is trained tries every learning rate of `calibration` besides."""

    def __post_init__(self) -> None:
        least = min(self.adapters.values(), default=1)
        require(least >= 1, "adapters", "at least 1 each", self.adapters)
        require(self.mixer_designs >= 1, "mixer_designs", "at least 1", self.mixer_designs)


@dataclass(frozen=True, kw_only=True)
class RoutingConfig:
    """Everything of the room `routing`."""

    domains: tuple[DomainConfig, ...]
    """Domains in order of training; at least two."""
    pair: tuple[str, str]
    """The two domains A and B of the protocol."""
    prepare: PrepareConfig
    """Documents to tokens."""
    adapters: AdaptersConfig
    """LoRA adapters."""
    calibration: CalibrationConfig
    """How mixers are calibrated."""
    mixers: dict[str, MixerConfig]
    """Mixer name (a letter, then letters, digits or _, all lower case) -> definition; `ours` is the
    one that controls are made of."""
    seeds: tuple[int, ...]
    """Training seeds of the mixers."""
    protocol: ProtocolConfig
    """Sequences and metrics."""
    runs: dict[str, RunConfig]
    """Run name (a letter, then letters, digits or _, all lower case; `original` is taken by the
    source's protocol) -> mixer and context."""
    original: OriginalConfig
    """The source's protocol."""
    tried: TriedConfig
    """Configurations tried before these."""

    def __post_init__(self) -> None:
        names = [domain.name for domain in self.domains]
        require_domains(names, "domains")
        ok = self.pair[0] != self.pair[1] and set(self.pair) <= set(names)
        require(ok, "pair", f"two different names out of {names}", self.pair)
        require("ours" in self.mixers, "mixers", "holding 'ours'", sorted(self.mixers))
        start = self.mixers["ours"].init
        require(start == "fresh", "mixers.ours.init", "fresh: others continue from it", start)
        require(len(self.seeds) > 0, "seeds", "a list of at least one seed", self.seeds)
        require(len(set(self.seeds)) == len(self.seeds), "seeds", "distinct", self.seeds)
        self._check_runs()
        for name, adapter in self.adapters.runs.items():
            most = self.prepare
            ok = adapter.samples <= most.train_chunks and adapter.tokens <= most.train_tokens
            rule = "within prepare.train_chunks and prepare.train_tokens"
            require(ok, f"adapters.runs.{name}", rule, (adapter.samples, adapter.tokens))
        counted, known = sorted(self.tried.adapters), sorted(self.adapters.runs)
        rule = f"one count for each of {', '.join(known)}"
        require(counted == known, "tried.adapters", rule, counted)
        self._check_original()

    def mixers_read(self) -> list[str]:
        """Return the mixers that some run reads, sorted."""
        return sorted({run.mixer for run in self.runs.values()})

    def mixers_tried(self) -> dict[str, int]:
        """Return mixer -> configurations compared on validation chunks, 0 of one not trained."""
        rates = len(self.calibration.learning_rates)
        return {
            name: self.tried.mixer_designs * (rates if mixer.trains() else 0)
            for name, mixer in self.mixers.items()
        }

    def _check_runs(self) -> None:
        mixers = sorted(self.mixers)
        _require_names(mixers, "mixers")
        _require_names(self.runs, "runs")
        taken = "original" in self.runs
        require(not taken, "runs", "without 'original', the source's protocol", sorted(self.runs))
        for name, run in self.runs.items():
            require(run.mixer in mixers, f"runs.{name}.mixer", f"one of {mixers}", run.mixer)
            others = {None, *self.runs} - {name}
            key, rule = f"runs.{name}.control_of", "null or another run"
            require(run.control_of in others, key, rule, run.control_of)

    def _check_original(self) -> None:
        prompts = self.original.prompts
        require(set(self.pair) <= set(prompts), "original.prompts", "one a domain", sorted(prompts))
        known = sorted(self.adapters.runs)
        run = self.original.adapter_run
        require(run in known, "original.adapter_run", f"one of {known}", run)
        mixer = self.original.mixer
        ok = mixer in self.mixers and self.mixers[mixer].strategy == "token"
        require(ok, "original.mixer", "a mixer of strategy token", mixer)
