"""The one result row type: what every headline file, table and claim is made of."""

from __future__ import annotations

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One measured value with its interval.

    Raises
    ------
    ValueError
        When a number is not finite, or the value is undefined without a reason.
    """

    metric: str
    """Metric name; `x@32` carries its setting after the at sign."""
    value: float | None
    """Point estimate in `unit`; None when undefined, then `reason` says why."""
    low: float | None = None
    """Lower end of the 95 % interval."""
    high: float | None = None
    """Upper end of the 95 % interval."""
    n: int | None = None
    """Independent units behind the value (texts, windows, documents)."""
    unit: str = ""
    """Unit: tokens, nats, fraction, s, ..."""
    seed: int | None = None
    """Training seed; None when the value is over all seeds."""
    control_of: str | None = None
    """Run that this row's run is a control of."""
    reason: str | None = None
    """Why the value is undefined or special."""

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{self.metric}.{name} must be finite or None, got {number!r}")
        if self.value is None and not self.reason:
            raise ValueError(f"{self.metric}: an undefined value needs a reason")

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready builtins with exactly the frame's keys."""
        record = dataclasses.asdict(self)
        for name in ("value", "low", "high"):
            record[name] = None if record[name] is None else float(record[name])
        return record


@dataclasses.dataclass(frozen=True)
class Interval:
    """A point estimate with its interval; what is undefined is None beside a reason."""

    value: float | None
    """Point estimate."""
    low: float | None
    """Lower end."""
    high: float | None
    """Upper end."""
    reason: str | None = None
    """Why the value or the ends are undefined."""

    def __post_init__(self) -> None:
        for number in (self.value, self.low, self.high):
            assert number is None or math.isfinite(number), self
        undefined = self.value is None or self.low is None or self.high is None
        assert not undefined or self.reason, "an undefined end needs a reason"

    @classmethod
    def undefined(cls, reason: str) -> Interval:
        """Return an interval without a value, and why."""
        return cls(None, None, None, reason)


def row_of(
    metric: str,
    interval: Interval,
    *,
    n: int,
    unit: str,
    seed: int | None = None,
    control_of: str | None = None,
    reason: str | None = None,
) -> Row:
    """Make the row of an interval; its own reason is kept before `reason`."""
    return Row(
        metric=metric,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n=n,
        unit=unit,
        seed=seed,
        control_of=control_of,
        reason=interval.reason or reason,
    )
