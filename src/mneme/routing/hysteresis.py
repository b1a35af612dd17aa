"""Hysteresis: A -> B -> A and A -> Mix -> A against controls, from traces of mixing weights.

Headline of the return gap: the second A after (A1, B) against the same second A after (A1, A') at
the same positions, minus the same distance between (A1, A') and (A1, A''): neither content nor cold
start nor copying can be its cause. Headline of the lag: lag back into A after B minus the lag after
A'. All differences are paired by text; seeds are crossed with texts, and intervals know which texts
share a play or a folder of files (`mneme.stats.clusters`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mneme.core.headline import run_block
from mneme.routing.config import ProtocolConfig, RunConfig
from mneme.routing.measure import mix_balance, mix_entropy, switching_asymmetry
from mneme.routing.readings import (
    Measured,
    Segments,
    Trace,
    Values,
    censored_shares,
    contrast,
    gaps,
    lag,
    median_rows,
    p_values,
    rows_of,
    segments,
)
from mneme.routing.sharing import pieces_of, works_of
from mneme.stats.rows import Row


def hysteresis(
    trace: Trace,
    runs: Mapping[str, RunConfig],
    protocol: ProtocolConfig,
    *,
    pair: tuple[int, int],
    seeds: tuple[int, ...],
) -> dict[str, dict[str, Any]]:
    """Measure every run.

    Parameters
    ----------
    trace : mapping of str to ndarray, (S, N, T, K) float32
        `mneme.routing.trace.trace_batch` on `hysteresis_families`, and the works of the passages.
    runs, protocol
        Settings.
    pair : tuple of int
        Columns of domains A and B.
    seeds : tuple of int
        Mixer seeds, in the order of axis S.

    Returns
    -------
    dict
        Run name -> block of the headline file: rows (restricted means with intervals, contrasts
        with every control, medians, the lag over thresholds as `switch_lag_BA@<theta>`),
        `censored`, `p_values`, `bands` (mean w_A(t) with the 10 and 90 % quantiles over texts).

    Raises
    ------
    ValueError
        The trace does not name the works.
    """
    values = {name: run_values(trace, run, protocol, pair=pair) for name, run in runs.items()}
    blocks, works = {}, works_of(trace)
    for name, run in runs.items():
        own = dict(values[name])
        if run.context == "real":
            null = control_values(trace, run.mixer, protocol, pair=pair)
            own |= contrast(values[name], null, "aa") | mixed_contrast(values[name])
            for other, control in runs.items():
                if control.control_of == name and control.context != "same_domain":
                    own |= contrast(values[name], values[other], other)
        blocks[name] = run_block(
            [
                *rows_of(own, protocol, works, seeds=seeds, control_of=run.control_of),
                *median_rows(own, run.control_of),
                *_undefined_rows(run),
            ],
            p_values=p_values(own, works),
            censored=censored_shares(own),
            bands=bands(trace, run, protocol, pair=pair),
            context=run.context,
            mixer=run.mixer,
        )
    return blocks


def run_values(
    trace: Trace, run: RunConfig, protocol: ProtocolConfig, *, pair: tuple[int, int]
) -> Values:
    """Measure one run: lags at both boundaries, return gaps, mixed and repeated sequences."""
    read = _reader(trace, run.mixer, protocol, pair)
    own = read(run.context)
    values = lag_values(own, protocol)
    reference, domain = read("same_domain"), pair[0]
    if run.context != "swapped":
        second = read("other") if run.context == "same_domain" else own
        values |= gaps(reference, second, tokens=protocol.gap_tokens, domain=domain)
    if run.context != "real":
        return values
    mixed = read("mixed")
    for name, threshold in _thresholds("switch_lag_mixA", protocol):
        back_SNT = mixed.last_SNTK[..., domain]
        values[name] = lag(back_SNT, threshold, protocol.run_tokens, pieces=mixed.pieces)
    assert mixed.middle_SNTK is not None
    entropy, balance = mix_entropy(mixed.middle_SNTK), mix_balance(mixed.middle_SNTK, domains=pair)
    for name, values_SN, unit in (("mix_entropy", entropy, "nats"), ("mix_balance", balance, "")):
        values[name] = Measured(values_SN=values_SN, unit=unit, pieces=mixed.middle_pieces)
    values |= gaps(
        reference, mixed, tokens=protocol.gap_tokens, domain=domain, prefix="return_gap_mixed"
    )
    return values | repeated_values(trace, run.mixer, "repeated", protocol, domain=domain)


def control_values(
    trace: Trace, mixer: str, protocol: ProtocolConfig, *, pair: tuple[int, int]
) -> Values:
    """Measure the A -> A' -> A control of a mixer under the names of the real run's metrics."""
    run = RunConfig(mixer=mixer, context="same_domain", control_of=None)
    # Entering B against entering A' compares different texts: content, not memory.
    values = {
        name: value
        for name, value in run_values(trace, run, protocol, pair=pair).items()
        if not name.startswith(("switch_lag_AB", "switching_asymmetry"))
    }
    mixed = {
        name.replace("return_gap", "return_gap_mixed"): value
        for name, value in values.items()
        if name.startswith("return_gap")
    }
    lags = {
        name.replace("switch_lag_BA", "switch_lag_mixA"): value
        for name, value in values.items()
        if name.startswith("switch_lag_BA")
    }
    again = repeated_values(trace, mixer, "repeated_aa", protocol, domain=pair[0])
    return values | mixed | lags | again


def mixed_contrast(own: Values) -> Values:
    """Return what a mixed segment leaves behind minus what a clean one does, paired by text."""
    mixed = ("switch_lag_mixA", "return_gap_mixed_cosine", "return_gap_mixed_euclidean")
    clean = {name: name.replace("mixA", "BA").replace("_mixed", "") for name in mixed}
    return contrast(
        {name: own[name] for name in mixed},
        {name: own[other] for name, other in clean.items()},
        "clean",
    )


def lag_values(own: Segments, protocol: ProtocolConfig) -> Values:
    """Measure lags at both boundaries for every threshold, and the signed asymmetry."""
    values: Values = {}
    last_SNT = own.last_SNTK[..., own.domains[2]]
    for name, threshold in _thresholds("switch_lag_BA", protocol):
        values[name] = lag(last_SNT, threshold, protocol.run_tokens, pieces=own.pieces)
    values["relax_time_0.99"] = lag(last_SNT, 0.99, protocol.run_tokens, pieces=own.pieces)
    if own.middle_SNTK is None:
        return values
    middle_SNT = own.middle_SNTK[..., own.domains[1]]
    for name, threshold in _thresholds("switch_lag_AB", protocol):
        values[name] = lag(middle_SNT, threshold, protocol.run_tokens, pieces=own.middle_pieces)
    asymmetry = switching_asymmetry(
        values["switch_lag_BA"].values_SN, values["switch_lag_AB"].values_SN
    )
    for name, values_SN in asymmetry.items():
        metric = f"switching_asymmetry_{name}"
        values[metric] = Measured(values_SN=values_SN, unit="tokens", pieces=own.pieces)
    return values


def repeated_values(
    trace: Trace, mixer: str, family: str, protocol: ProtocolConfig, *, domain: int
) -> Values:
    """First against second visit on the same text, as the source meant the return gap."""
    size = protocol.segment_tokens
    weights = trace[f"{mixer}/{family}/{size}"]
    first, second = (
        Segments(
            middle_SNTK=None,
            last_SNTK=visit_SNTK,
            domains=(domain, domain, domain),
            pieces=pieces_of(family),
            middle_pieces=frozenset(),
        )
        for visit_SNTK in (weights[:, :, :size], weights[:, :, -size:])
    )
    return gaps(
        first, second, tokens=protocol.gap_tokens, domain=domain, prefix="return_gap_repeated"
    )


def bands(
    trace: Trace, run: RunConfig, protocol: ProtocolConfig, *, pair: tuple[int, int]
) -> dict[str, Any]:
    """Mean of w_A(t) over texts and seeds, its 10 and 90 % quantiles over texts (figures)."""
    weights = trace[f"{run.mixer}/{run.context}/{protocol.segment_tokens}"][..., pair[0]]
    by_text = weights.mean(axis=0)
    low, high = np.quantile(by_text, [0.1, 0.9], axis=0)
    start = 2 * protocol.segment_tokens if run.context == "reset" else 0
    return {
        "position": list(range(start, start + by_text.shape[1])),
        "mean": _rounded(by_text.mean(axis=0)),
        "low": _rounded(low),
        "high": _rounded(high),
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in values]


def _reader(trace: Trace, mixer: str, protocol: ProtocolConfig, pair: tuple[int, int]) -> Any:
    size = protocol.segment_tokens
    return lambda context: segments(trace, mixer, context, size, size=size, pair=pair)


def _thresholds(name: str, protocol: ProtocolConfig) -> list[tuple[str, float]]:
    """Headline threshold under the plain name, the curve as name@theta."""
    curve = [(f"{name}@{theta:g}", theta) for theta in protocol.thresholds]
    return [(name, protocol.threshold), *curve]


def _undefined_rows(run: RunConfig) -> list[Row]:
    """Say which headline metrics a context does not have, and why."""
    alone = "the second A is read alone: there is no boundary into B"
    reasons = {
        "swapped": {
            "return_gap_cosine": (
                "no B -> B' -> B sequence is read, so the return to B has no reference"
            )
        },
        "reset": {"switch_lag_AB": alone, "switching_asymmetry_signed": alone},
    }
    return [
        Row(metric=metric, value=None, control_of=run.control_of, reason=reason)
        for metric, reason in reasons.get(run.context, {}).items()
    ]
