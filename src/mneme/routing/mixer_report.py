"""Calibrated mixers -> rows of `results/mixer.json`: accuracy with intervals, curves (no torch).

Test chunks are the same under every seed: seeds are averaged per chunk, chunks resampled, and the
intervals know which chunks are of one play or folder of files.

Legend: S seeds, N test chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.core.headline import run_block
from mneme.routing.config import CalibrationConfig, MixerConfig
from mneme.routing.sharing import EVERY_DOMAIN, Works, shared_mean
from mneme.stats.clusters import Ways
from mneme.stats.intervals import wilson
from mneme.stats.rows import Row, row_of

"""The source's figures; its accuracy and loss are on its training data, ours are held out."""

_BY_CONSTRUCTION = "the mixer reads the true labels: right by construction"
_ALIKE = "every chunk alike: Wilson's interval over works"


@dataclass(frozen=True, kw_only=True)
class MixerReportConfig:
    """Settings of the script `routing_mixer`."""

    domains: tuple[str, ...]
    """Domain names, in order."""
    mixers: dict[str, MixerConfig]
    """Mixer name -> definition."""
    calibration: CalibrationConfig
    """How they were calibrated."""
    seeds: tuple[int, ...]
    """Training seeds."""
    resamples: int
    """Bootstrap resamples."""
    designs: int
    """Designs of the gate that were compared."""


def mixer_report(
    records: Sequence[Mapping[str, Any]], config: MixerReportConfig, *, works: Works
) -> dict[str, dict[str, Any]]:
    """Report every mixer over its seeds.

    Parameters
    ----------
    records : sequence of mapping
        Contents of the `mixer.json` files, any order.
    config : MixerReportConfig
        Mixers and seeds, each of which must have exactly one record.
    works : Works
        Works of the test chunks (`mneme.routing.sharing.chunk_works`).

    Returns
    -------
    dict
        Mixer name -> block of the headline file: rows, and `strategy`, `labels`, `seeds`,
        `curves` (name -> one list over epochs a seed), `tried` (a list a seed).

    Raises
    ------
    ValueError
        A mixer lacks the record of a seed.
    """
    blocks = {}
    for name, mixer in config.mixers.items():
        own = [_record(records, name, seed) for seed in config.seeds]
        blocks[name] = run_block(
            list(_rows(name, mixer, own, config, works)),
            strategy=mixer.strategy,
            labels=mixer.labels,
            seeds=list(config.seeds),
            curves=_curves(own),
            tried=[record["tried"] for record in own],
        )
    return blocks


def control_of(name: str, mixer: MixerConfig) -> str | None:
    """Return the mixer that this one is a control of, by its definition.

    The oracle is the positive control of `ema`; what cannot see the context, is not trained on the
    truth, or is no more than a linear reading of the state, is one of `ours`.
    """
    if mixer.strategy == "ema_oracle":
        return "ema"
    null = mixer.strategy in ("token", "probe") or mixer.labels == "shuffled" or mixer.epochs == 0
    return "ours" if null and name != "ours" else None


def _record(records: Sequence[Mapping[str, Any]], name: str, seed: int) -> Mapping[str, Any]:
    found = [r for r in records if r["name"] == name and r["seed"] == seed]
    if len(found) != 1:
        raise ValueError(
            f"mixer {name!r} has {len(found)} records of seed {seed}, expected one: "
            "run routing_mixer_fit again"
        )
    return found[0]


def _rows(
    name: str,
    mixer: MixerConfig,
    own: Sequence[Mapping[str, Any]],
    config: MixerReportConfig,
    works: Works,
) -> Iterator[Row]:
    control = control_of(name, mixer)

    def accuracy(metric: str, values_SN: NDArray[np.float64], of: str) -> list[Row]:
        ways = works.ways(frozenset({of}))
        return _accuracy_rows(metric, values_SN, ways, mixer, control, config)

    domain_N = np.array(own[0]["test_chunk_domains"])
    targets = {"": "test", **({"_true_domain": "test_domains"} if mixer.labels != "true" else {})}
    for suffix, part in targets.items():
        tokens_SN = np.array([record[part]["tokens"] for record in own], float)
        chunks_SN = np.array([record[part]["chunks"] for record in own], float)
        yield from accuracy(f"token_accuracy{suffix}", tokens_SN, EVERY_DOMAIN)
        yield from accuracy(f"chunk_accuracy{suffix}", chunks_SN, EVERY_DOMAIN)
        for index, domain in enumerate(config.domains):
            metric, here_SN = f"token_accuracy{suffix}@{domain}", tokens_SN[:, domain_N == index]
            yield from accuracy(metric, here_SN, domain)
    losses = {
        "validation_nll": [record["validation_nll"] for record in own],
        "router_loss": [_last(record, "loss") for record in own],
        "router_nll": [_last(record, "nll") for record in own],
    }
    for metric, values in losses.items():
        yield from _loss_rows(metric, values, mixer, control, config.seeds)
    yield from _loss_rows(
        "router_training_accuracy",
        [_last(record, "training_token_accuracy") for record in own],
        mixer,
        control,
        config.seeds,
        unit="fraction",
    )
    tried = float(config.designs * max(len(record["tried"]) for record in own))
    yield Row(metric="configurations_tried", value=tried, unit="configurations", control_of=control)


def _accuracy_rows(
    metric: str,
    values_SN: NDArray[np.float64],
    ways: Ways,
    mixer: MixerConfig,
    control: str | None,
    config: MixerReportConfig,
) -> list[Row]:
    """Return the crossed mean and a row a seed; where all chunks agree, Wilson's interval.

    As many works (chunks, where none is shared) as there are stand for it then.
    """
    crossed = shared_mean(metric, values_SN, ways, resamples=config.resamples)
    rows = crossed.rows(metric, unit="fraction", seeds=config.seeds, control_of=control)
    n, value = crossed.n, crossed.interval.value
    if mixer.strategy == "ema_oracle":
        rows[0] = Row(
            metric=metric,
            value=value,
            n=n,
            unit="fraction",
            control_of=control,
            reason=_BY_CONSTRUCTION,
        )
    elif crossed.interval.low == crossed.interval.high and value in (0.0, 1.0):
        # A bootstrap of equal values has no width, which would claim certainty from N chunks.
        units = ways.units or n
        interval = wilson(int(units * value), units)
        rows[0] = row_of(metric, interval, n=n, unit="fraction", control_of=control, reason=_ALIKE)
    return rows


def _loss_rows(
    metric: str,
    values: Sequence[float | None],
    mixer: MixerConfig,
    control: str | None,
    seeds: Sequence[int],
    *,
    unit: str = "nats",
) -> list[Row]:
    """Return the mean over seeds and a row a seed; None where nothing was trained."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        oracle = mixer.strategy == "ema_oracle"
        reason = "it has no parameters to train" if oracle else "untrained (epochs 0)"
        return [Row(metric=metric, value=None, unit=unit, control_of=control, reason=reason)]
    mean = float(np.mean(known))
    pairs = zip(seeds, known, strict=True)
    return [
        Row(metric=metric, value=mean, unit=unit, control_of=control),
        *(Row(metric=metric, value=v, unit=unit, seed=s, control_of=control) for s, v in pairs),
    ]


def _last(record: Mapping[str, Any], key: str) -> float | None:
    return record["history"][-1][key] if record["history"] else None


def _curves(own: Sequence[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    """Return each quantity of the history as one list over epochs a seed."""
    names = [name for name in (own[0]["history"] or [{}])[0] if name != "epoch"]
    return {name: [[entry[name] for entry in r["history"]] for r in own] for name in names}
