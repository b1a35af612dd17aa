"""Rollouts: a model reads its own predictions, many windows at once, with a key-value cache.

Legend: B batch (windows), T positions of the context, H horizon, S samples, F extra features.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from mneme.core.config import require
from mneme.nn.onednn import OneDNNLinear
from mneme.zeta.attention import KVCache
from mneme.zeta.memory import Slots
from mneme.zeta.mixture import Mixture
from mneme.zeta.model import SpacingMDN

State = tuple[Tensor, ...]
LEAST_SPACING = 1e-3
"""What is fed back is at least this, mean spacings: Gaussian tails reach below 0, zeros do not."""
ROWS = 512
"""Rows rolled at once: fewer pay more for each step, more only cost memory."""


class Extra(Protocol):
    """Source of the features that a model with `extra` > 0 reads beside each spacing."""

    def start(self, context_BT: Tensor, rows: slice) -> tuple[Tensor, State]:
        """Read the context.

        Parameters
        ----------
        context_BT : Tensor
            Spacings of the context, mean 1.
        rows : slice
            Which windows of the whole rollout these rows are: long batches come in parts.

        Returns
        -------
        features_BTF : Tensor
            Features at each position; they may use its spacing and earlier ones only.
        state : tuple of Tensor
            What `step` needs, the batch first in each tensor.
        """
        ...

    def step(self, spacing_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one more spacing; return its position's features (B, F) and the next state.

        `state` must not be changed in place: sampled rollouts share it.
        """
        ...


@torch.no_grad()
def rollout(
    model: SpacingMDN,
    context_BT: Tensor,
    *,
    horizon: int,
    mode: Literal["mean", "sample"],
    generator: torch.Generator | None,
    extra: Extra | None = None,
    level_B: Tensor | None = None,
    slots: Slots | None = None,
) -> Tensor:
    """Continue every window by its own predictions.

    Parameters
    ----------
    model : SpacingMDN
        Called outside `OneDNNLinear`, which the rollout enters itself where it pays.
    context_BT : Tensor
        True spacings, at least one, on the model's device and in its type.
    horizon : int
        Spacings H to predict, at least 1; T + H - 1 must fit the model's window.
    mode : {"mean", "sample"}
        Feed back the mixture's mean, or a sample.
    generator : torch.Generator or None
        Source of the samples (drawn on its device, then moved); None for `mean`.
    extra : Extra, optional
        Features of a model built with `extra` > 0.
    level_B : Tensor, optional
        Coarse height of each window, for a model with position coding `distance`.
    slots : Slots, optional
        Replacement of memory slots, row by row.

    Returns
    -------
    Tensor
        Predicted spacings (B, H).

    Raises
    ------
    ConfigError
        Context and horizon longer than the window; a generator missing or unasked.
    """
    require(mode in ("mean", "sample"), "mode", "mean or sample", mode)
    sampled = mode == "sample"
    require(sampled == (generator is not None), "generator", f"right for mode {mode}", generator)
    if generator is not None:
        return ensemble(
            model,
            context_BT,
            horizon=horizon,
            samples=1,
            generator=generator,
            extra=extra,
            level_B=level_B,
            slots=slots,
        )[0]
    parts = _parts(len(context_BT), ROWS)
    return torch.cat(
        [_roll(model, context_BT, horizon, None, extra, level_B, slots, rows) for rows in parts]
    )


@torch.no_grad()
def ensemble(
    model: SpacingMDN,
    context_BT: Tensor,
    *,
    horizon: int,
    samples: int,
    generator: torch.Generator,
    extra: Extra | None = None,
    level_B: Tensor | None = None,
    slots: Slots | None = None,
) -> Tensor:
    """Continue every window `samples` times by sampling; the context is read once for all.

    Parameters and errors as in `rollout`; the noise does not depend on how rows are batched.

    Returns
    -------
    Tensor
        Sampled spacings (S, B, H).
    """
    require(samples >= 1, "samples", "at least 1", samples)
    shape = (len(context_BT), samples, horizon)
    kind = {"generator": generator, "device": generator.device}
    noise = torch.stack([torch.rand(shape, **kind), torch.randn(shape, **kind)])
    noise = noise.to(context_BT.device)
    parts = [
        _roll(model, context_BT, horizon, noise[:, rows], extra, level_B, slots, rows)
        for rows in _parts(len(context_BT), max(1, ROWS // samples))
    ]
    return torch.cat(parts).unflatten(0, (len(context_BT), samples)).transpose(0, 1)


def differentiable_rollout(
    model: SpacingMDN,
    context_BT: Tensor,
    *,
    horizon: int,
    extra: Extra | None = None,
    level_B: Tensor | None = None,
    slots: Slots | None = None,
) -> Tensor:
    """Roll by the mean and keep the graph: gradients flow through every fed-back prediction.

    The context is detached, so that what is learnt is how to continue, not how to change the data;
    the memory slots and the reading of the context do get gradients.

    Returns
    -------
    Tensor
        Predicted spacings (B, H).
    """
    rows = slice(0, len(context_BT))
    return _roll(model, context_BT.detach(), horizon, None, extra, level_B, slots, rows)


def _parts(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _roll(
    model: SpacingMDN,
    context_BT: Tensor,
    horizon: int,
    noise: Tensor | None,
    extra: Extra | None,
    level_B: Tensor | None,
    slots: Slots | None,
    rows: slice,
) -> Tensor:
    """Roll some rows; `noise` (2, B, S, H) asks for samples, row by row side by side."""
    length, window = context_BT.shape[1], model.config.window
    require(horizon >= 1, "horizon", "at least 1", horizon)
    fits = 1 <= length <= window + 1 - horizon
    require(fits, "context_BT", f"of 1..{window + 1 - horizon} positions for this horizon", length)
    context_BT, level_B = context_BT[rows], None if level_B is None else level_B[rows]
    if slots is not None:
        slots = Slots(keep_BM=slots.keep_BM[rows], values_BMD=slots.values_BMD[rows])
    features, state = (None, ()) if extra is None else extra.start(context_BT, rows)
    cache = KVCache(length + horizon - 1 + model.prefix)
    with OneDNNLinear():  # pays for the context's many rows, not for the few of a step
        out = model(context_BT, extra_BTF=features, level_B=level_B, slots=slots, cache=cache)
    last = _last(out.mixture)
    if noise is not None:
        times = noise.shape[2]
        noise = noise.flatten(1, 2)
        cache, state = cache.repeat(times), tuple(_repeat(t, times) for t in state)
        last = Mixture(*(_repeat(t, times) for t in last))
        level_B = None if level_B is None else _repeat(level_B, times)
        if slots is not None:
            slots = Slots(
                keep_BM=_repeat(slots.keep_BM, times), values_BMD=_repeat(slots.values_BMD, times)
            )
    return _continue(model, last, cache, horizon, noise, extra, state, level_B, slots)


def rollout_within(
    model: SpacingMDN,
    mixture: Mixture,
    cache: KVCache,
    *,
    context: int,
    horizon: int,
    slots: Slots | None = None,
) -> Tensor:
    """Continue windows by the mean from a place inside what a cached forward pass has read.

    It gives what `rollout` gives from the first `context` spacings, without reading them again.

    Parameters
    ----------
    model : SpacingMDN
        One that keeps nothing but keys and values (`can_be_cut`).
    mixture : Mixture
        Predictions (B, T, K) of that pass.
    cache : KVCache
        What it left, with room for `horizon`; what it holds beyond the context is lost.
    context : int
        Spacings before the rollout, at most T.
    horizon : int
        Spacings H to predict.
    slots : Slots, optional
        As in that pass.

    Returns
    -------
    Tensor
        Predicted spacings (B, H).
    """
    require(can_be_cut(model), "model", "without running sums over the data", model.arm)
    last = Mixture(*(part[:, context - 1] for part in mixture))
    cache.length = model.prefix + context
    return _continue(model, last, cache, horizon, None, None, (), None, slots)


def can_be_cut(model: SpacingMDN) -> bool:
    """Return whether a cache of `model` can be cut back to fewer positions."""
    return model.arm in ("none", "prefix") and not model.distance


def _continue(
    model: SpacingMDN,
    last: Mixture,
    cache: KVCache,
    horizon: int,
    noise: Tensor | None,
    extra: Extra | None,
    state: State,
    level_B: Tensor | None,
    slots: Slots | None,
) -> Tensor:
    """Feed predictions back, from the one after the last position read on."""
    spacings = []
    for h in range(horizon):
        spacing_B = last.mean() if noise is None else last.draw(noise[0, :, h], noise[1, :, h])
        spacing_B = spacing_B.clamp_min(LEAST_SPACING)
        spacings.append(spacing_B)
        if h + 1 < horizon:
            features = None
            if extra is not None:
                features, state = extra.step(spacing_B, state)
                features = features[:, None]
            fed = spacing_B[:, None]
            out = model(fed, extra_BTF=features, level_B=level_B, slots=slots, cache=cache)
            last = _last(out.mixture)
    return torch.stack(spacings, dim=1)


def _repeat(x: Tensor, times: int) -> Tensor:
    return x.repeat_interleave(times, dim=0)


def _last(mixture: Mixture) -> Mixture:
    return Mixture(*(part[:, -1] for part in mixture))
