"""Rows of `results/ttt_adapter.json`: what an adapter makes of held-out answers and of replies.

S seeds, C held-out conversations, Q prompts. Every conversation is a mean over its answers' tokens,
read by all networks alike, so differences are paired and intervals are over conversations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.core.headline import run_block
from mneme.stats.intervals import bootstrap_mean, crossed_mean
from mneme.stats.rows import Row, row_of
from mneme.stats.tried import tried_row

Floats = NDArray[np.float64]
Reply = Mapping[str, str]
"""`prompt`, `base` (reply without adapter), `adapter` (reply with it)."""
REPEATED_WITHIN = 16
"""Words back that a word counts as repeated in."""
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


@dataclass(frozen=True, kw_only=True)
class MeasuredAdapter:
    """What the seeds of one adapter run left; all read the same conversations and prompts."""

    seeds: tuple[int, ...]
    """Training seeds."""
    before_SC: Floats
    """Loss of each conversation's answers without the adapter, nats a token."""
    after_SC: Floats
    """The same with it."""
    before_ttt_SC: Floats | None
    """Without the adapter, read with updates at test time; None where it was not."""
    after_ttt_SC: Floats | None
    """With it, read with updates."""
    replies: tuple[tuple[Reply, ...], ...]
    """Replies of each seed to the same prompts."""
    histories: tuple[Mapping[str, Any], ...]
    """History of each seed, as `adapter.fit_adapter` leaves it."""
    base: str
    """Run that is adapted."""
    tried: int
    """Configurations of the adapter that were tried, the one in use among them."""
    control_of: str | None
    """Adapter run that this one is a control of."""


def adapter_block(
    measured: MeasuredAdapter,
    *,
    controls: Mapping[str, MeasuredAdapter],
    resamples: int,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Return one run's block of the headline file.

    Parameters
    ----------
    measured : MeasuredAdapter
        The run.
    controls : mapping
        Name -> control of this run, on the same conversations and seeds.
    resamples : int
        Bootstrap resamples.
    generator : numpy.random.Generator
        Their source.

    Returns
    -------
    dict
        `rows`: `dialogue_nll.before`, `.after`, `.change` (after - before: negative is better),
        `.minus_<control>` (after, against the control's), the same as `dialogue_nll_ttt` where
        conversations are read with updates, `trained_parameters`,
        `configurations_tried`, and of the replies
        `distinct_2`, `repetition`, `words`, each `.base`, `.adapter`, `.change`. `curves`: `step`
        and, a list a seed, `train_loss` and `val_nll`. `replies`: seed, prompt and both replies.

    Raises
    ------
    ValueError
        A control has other seeds or conversations.
    """
    for name, control in controls.items():
        same = control.seeds == measured.seeds and control.after_SC.shape == measured.after_SC.shape
        if not same:
            raise ValueError(
                f"{name} has other seeds or conversations than what it is a control of"
            )
    told = {"unit": "nats/token", "seeds": measured.seeds, "control_of": measured.control_of}
    rows = []
    for name, values_SC in _losses(measured, controls).items():
        crossed = crossed_mean(values_SC, resamples=resamples, generator=generator)
        rows += crossed.rows(name, **told)
    rows.append(_parameters(measured))
    rows.append(tried_row(measured.tried, control_of=measured.control_of))
    rows += _reply_rows(measured, resamples=resamples, generator=generator)
    return run_block(
        rows, base=measured.base, curves=_curves(measured.histories), replies=_told(measured)
    )


def _losses(
    measured: MeasuredAdapter, controls: Mapping[str, MeasuredAdapter]
) -> dict[str, Floats]:
    """Return metric -> (S, C), read without updates and with them."""
    found = {}
    for metric, way in (("dialogue_nll", ""), ("dialogue_nll_ttt", "_ttt")):
        before, after = (getattr(measured, f"{part}{way}_SC") for part in ("before", "after"))
        if before is None:
            continue
        found |= {f"{metric}.before": before, f"{metric}.after": after}
        found[f"{metric}.change"] = after - before
        for name, other in controls.items():
            found[f"{metric}.minus_{name}"] = after - getattr(other, f"after{way}_SC")
    return found


def _parameters(measured: MeasuredAdapter) -> Row:
    (count,) = {history["trained_parameters"] for history in measured.histories}
    control_of = measured.control_of
    return Row(metric="trained_parameters", value=count, unit="numbers", control_of=control_of)


def words(text: str) -> list[str]:
    """Split a reply into words and punctuation marks, in lower case."""
    return _WORD.findall(text.lower())


def distinct(units: Sequence[str], *, n: int) -> float | None:
    """Return the share of n-grams that are different; None when there is no n-gram.

    References
    ----------
    Li et al. 2016, A diversity-promoting objective function for neural conversation models.
    """
    grams = list(zip(*(units[start:] for start in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else None


def repetition(units: Sequence[str], *, within: int) -> float | None:
    """Return the share of words that also stand among the `within` words before them.

    None when there is no word.

    References
    ----------
    Welleck et al. 2020, Neural text generation with unlikelihood training (rep/l).
    """
    if not units:
        return None
    repeated = [unit in units[max(0, t - within) : t] for t, unit in enumerate(units)]
    return sum(repeated) / len(units)


MEASURES: Mapping[str, tuple[Callable[[Sequence[str]], float | None], str]] = {
    "distinct_2": (lambda units: distinct(units, n=2), "fraction"),
    "repetition": (lambda units: repetition(units, within=REPEATED_WITHIN), "fraction"),
    "words": (lambda units: float(len(units)), "words"),
}
"""What is read of a reply, and its unit."""


def _reply_rows(
    measured: MeasuredAdapter, *, resamples: int, generator: np.random.Generator
) -> Iterator[Row]:
    """Yield means over prompts, seeds averaged, of what both replies to a prompt have."""
    for name, (measure, unit) in MEASURES.items():
        base_Q, adapter_Q = _paired(measured.replies, measure)
        left_out = len(measured.replies[0]) - len(base_Q)
        short = f"left out for too short a reply: {left_out} prompts" if left_out else None
        kinds = {"base": base_Q, "adapter": adapter_Q, "change": adapter_Q - base_Q}
        for kind, values_Q in kinds.items():
            place = {"unit": unit, "control_of": measured.control_of, "n": len(values_Q)}
            metric = f"{name}.{kind}"
            if not len(values_Q):
                yield Row(metric=metric, value=None, reason=short, **place)
                continue
            interval = bootstrap_mean(values_Q, resamples=resamples, generator=generator)
            yield row_of(metric, interval, reason=short, **place)


def _paired(
    replies: Sequence[Sequence[Reply]], measure: Callable[[Sequence[str]], float | None]
) -> tuple[Floats, Floats]:
    """Return a measure of base and adapter, a mean over seeds for each prompt that has both."""
    base, adapter = [], []
    for of_prompt in zip(*replies, strict=True):
        read = [(measure(words(r["base"])), measure(words(r["adapter"]))) for r in of_prompt]
        both = [(a, b) for a, b in read if a is not None and b is not None]
        if both:
            base.append(np.mean([a for a, _ in both]))
            adapter.append(np.mean([b for _, b in both]))
    return np.asarray(base, float), np.asarray(adapter, float)


def _curves(histories: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    steps = [point["step"] for point in histories[0]["points"]]
    return {"step": steps} | {
        key: [[point[key] for point in history["points"]] for history in histories]
        for key in ("train_loss", "val_nll")
    }


def _told(measured: MeasuredAdapter) -> list[dict[str, Any]]:
    pairs = zip(measured.seeds, measured.replies, strict=True)
    return [{"seed": seed, **reply} for seed, replies in pairs for reply in replies]
