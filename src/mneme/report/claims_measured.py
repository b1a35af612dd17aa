"""What the headline files hold of a claim: its effects and controls, and the original's value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mneme.report.claims_config import EffectAddress, EffectConfig
from mneme.stats.rows import Interval, Row
from mneme.stats.verdict import Judgement, judge

Json = Mapping[str, Any]
Index = Mapping[str, Mapping[str, Mapping[str, Sequence[Row]]]]
"""Phase -> run -> metric -> rows: that over all seeds and those of single seeds."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An effect or control of a claim, and what was found of it."""

    effect: EffectConfig
    """What the ledger says."""
    row: Row | None
    """Its row over all seeds, reference subtracted; None where this configuration has none."""
    seeds: tuple[float, ...]
    """Values of single seeds, reference subtracted."""
    undefined: str | None
    """Why there is no row, or no value in it."""

    @property
    def ends(self) -> tuple[float, float]:
        """Return both ends of the interval; without one the value stands for them."""
        assert self.row is not None
        assert self.row.value is not None
        value, low, high = self.row.value, self.row.low, self.row.high
        if low is None or high is None:
            return value, value
        return min(low, value), max(high, value)

    @property
    def shows(self) -> bool:
        """Whether the interval lies wholly beyond delta in its direction."""
        low, high = self.ends
        delta = self.effect.delta
        return low > delta if self.effect.direction == "above" else high < -delta

    @property
    def stays_clear(self) -> bool:
        """Whether the interval does not reach delta in its direction (none: on either side)."""
        low, high = self.ends
        delta, direction = self.effect.delta, self.effect.direction
        return (direction == "below" or high < delta) and (direction == "above" or low > -delta)

    def judged(self) -> Judgement:
        """Return what the row says by itself."""
        assert self.row is not None
        ends = (self.row.value, self.row.low, self.row.high)
        why = (self.row.reason or "the row has no interval") if None in ends else None
        effect = self.effect
        return judge(
            Interval(*ends, why), self.row.n, direction=effect.direction, delta=effect.delta
        )

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready numbers; all but the ledger's are null where nothing was found."""
        row, effect = self.row, self.effect
        return {
            "address": effect.address,
            **{key: getattr(row, key, None) for key in ("value", "low", "high", "n", "unit")},
            "seeds": len(self.seeds),
            "seed_low": min(self.seeds, default=None),
            "seed_high": max(self.seeds, default=None),
            "reference": effect.reference,
            "direction": effect.direction,
            "delta": effect.delta,
            "reason": self.undefined,
        }


NEVER = "never: the source's protocol counts it as 0"
"""Why a lag of the source's protocol has no value."""


def by_address(headlines: Mapping[str, Json]) -> Index:
    """Sort the rows of all headline files by phase, run and metric."""
    index: dict[str, dict[str, dict[str, list[Row]]]] = {}
    for phase, headline in headlines.items():
        runs = index.setdefault(phase, {})
        for run, block in headline["runs"].items():
            metrics = runs.setdefault(run, {})
            for row in block["rows"]:
                metrics.setdefault(row["metric"], []).append(Row(**row))
    return index


def measured(effect: EffectConfig, index: Index) -> Measured:
    """Look an effect up and subtract its reference."""
    rows = [_shifted(row, effect.reference) for row in _rows(effect, index)]
    overall = next((row for row in rows if row.seed is None), None)
    if overall is None:
        undefined = _missing(effect, index)
    else:
        undefined = overall.reason if overall.value is None else None
    return Measured(
        effect=effect,
        row=overall,
        seeds=tuple(r.value for r in rows if r.seed is not None and r.value is not None),
        undefined=undefined,
    )


def original_of(
    address: EffectAddress, index: Index, headlines: Mapping[str, Json], *, where: str
) -> tuple[float | None, str | None]:
    """Return the value at an address, or None and why there is none.

    Parameters
    ----------
    address : EffectAddress
        A row over all seeds; where there is none, a dotted address in `published_keys`.
    index, headlines
        Rows by address; contents of the headline files.
    where : str
        Address in the configuration, used in messages.

    Raises
    ------
    ValueError
        A dotted address leads to a block or a list.
    """
    row = next((row for row in _rows(address, index) if row.seed is None), None)
    if row is not None:
        return row.value, row.reason if row.value is None else None
    runs = headlines[address.phase]["runs"] if address.phase in headlines else {}
    try:
        value = _walk(runs[address.run]["published_keys"], address.metric)
    except (KeyError, IndexError):
        return None, _missing(address, index)
    if address.metric in runs[address.run].get("never", ()):
        return None, NEVER
    if value is None:
        return None, f"{address.metric} is undefined in that run"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{where} must be the address of one number, got {address.metric!r}")
    return float(value), None


def _rows(address: EffectConfig | EffectAddress, index: Index) -> Sequence[Row]:
    return index.get(address.phase, {}).get(address.run, {}).get(address.metric, ())


def _shifted(row: Row, reference: float) -> Row:
    ends = {name: getattr(row, name) for name in ("value", "low", "high")}
    return replace(row, **{k: None if x is None else x - reference for k, x in ends.items()})


def _missing(address: EffectConfig | EffectAddress, index: Index) -> str:
    """Say what this configuration lacks."""
    if address.phase not in index:
        return f"there is no {address.phase}.json"
    if address.run not in index[address.phase]:
        return f"{address.phase}.json has no run {address.run!r}"
    return f"{address.phase}.json: run {address.run!r} has no {address.metric!r}"


def _walk(block: Any, dotted: str) -> Any:
    """Follow a dotted address through mappings and lists; raises KeyError or IndexError."""
    for part in dotted.split("."):
        if isinstance(block, Mapping):
            block = block[part]
        elif isinstance(block, list) and part.isdecimal():
            block = block[int(part)]
        else:
            raise KeyError(part)
    return block
