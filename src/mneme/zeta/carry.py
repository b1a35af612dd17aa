"""Arm `carry`: a learnt memory that runs on across windows and holds what a window has lost.

A bank of M leaky oscillators hears every zero as a click and turns by itself in between,

    h_m(k) = exp(-z_m dt_k) h_m(k-1) + 1,    z_m = decay_m + i frequency_m,

where dt_k = 2 pi s_k / L_k is the elapsed height told by spacing s_k and coarse level L_k. Hence
h_m(k) = sum over past zeros j <= k of exp(-z_m (t_k - t_j)): differences only, nothing later.
Frequencies start as an even grid and decays equal: no prime is told. Both are learnt, also through
what happened windows ago, because the bank carries its own derivative e = dh/dz beside h (real-time
recurrent learning, exact for a diagonal recurrence) and z moves are corrected to first order.

To be read, all oscillators are turned on freely to J offsets around the present zero (in spacings,
so that one forecast serves every height), mixed by learnt weights into C forecast curves, and a
small perceptron over curves and recent spacings gives the features that `SpacingMDN` takes as
`extra_BTF`. Without states from earlier windows the same arm is the control `carry_reset`.

Legend: B batch, T position, W windows, M oscillators, J offsets, C channels, R recent spacings,
F features.

References
----------
Williams & Zipser (1989), A learning algorithm for continually running fully recurrent neural
networks (the carried derivative). Orvieto et al. (2023), Resurrecting recurrent neural networks for
long sequences (diagonal linear recurrences).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mneme.zeta.carry_config import CarryConfig

TURN = 2 * math.pi
CENTRE = 11.5  # level around which the readout is centred: t about 600,000
SCAN_WINDOWS = 64  # windows summed at once in `scan`: bounds its memory, changes no result
LOG2_E = math.log2(math.e)  # torch.exp2 takes a quarter of the time of torch.exp
LARGEST_EXPONENT = 80.0  # exp() of it is still far from float32's end


class CarryState(NamedTuple):
    """What the memory knows at a zero; the batch comes first in each tensor."""

    value_BM: Tensor
    """h, complex."""
    slope_BM: Tensor
    """e = dh/dz, complex."""
    recent_BR: Tensor
    """The last spacings, 1 where none was yet."""

    def rows(self, index: Tensor | slice) -> CarryState:
        """Return the states of some windows."""
        return CarryState(*(part[index] for part in self))


class Readout(NamedTuple):
    """How forecast curves are read off the oscillators at a level; the batch comes first."""

    weights: Tensor
    """(B, 2 M, C J) from the parts of h; (B, 4 M, C J) from those of dh/dz too, for gradients."""
    known: Tensor
    """(B, 1, C J), what is no news."""


class CarryMemory(nn.Module):
    """Oscillator bank, forecast and readout.

    Parameters
    ----------
    config : CarryConfig
        Sizes and starting values.
    generator : torch.Generator
        Source of every initial weight; the global generator is neither read nor moved.
    """

    def __init__(self, config: CarryConfig, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        grid_M = (torch.arange(config.oscillators) + 0.5) * (config.highest / config.oscillators)
        self.grid_M = nn.Buffer(grid_M)
        self.tune_M = nn.Parameter(torch.zeros_like(grid_M))
        self.damp_M = nn.Parameter(torch.zeros_like(grid_M))
        self.mix_CM2 = nn.Parameter(torch.empty(config.channels, config.oscillators, 2))
        self.offsets_J = nn.Buffer(
            torch.linspace(config.first_offset, config.last_offset, config.offsets)
        )
        inputs = config.channels * config.offsets + config.recent + 1
        self.first = nn.Linear(inputs, config.features, device="meta").to_empty(device="cpu")
        self.second = nn.Linear(config.features, config.features, device="meta").to_empty(
            device="cpu"
        )
        with torch.no_grad():
            self.mix_CM2.normal_(std=0.3 * config.oscillators**-0.5, generator=generator)
            for layer in (self.first, self.second):
                layer.weight.normal_(std=layer.in_features**-0.5, generator=generator)
                layer.bias.zero_()
        self.anchor_2M = nn.Buffer(torch.stack(self.exponents()).detach())

    def exponents(self) -> tuple[Tensor, Tensor]:
        """Return decays and frequencies (M,), both per unit of height, the decays above 0."""
        start = self.config.shortest / self.config.memory
        shift = math.log(start / (1 - start))
        decay_M = torch.sigmoid(shift + self.config.mobility * self.damp_M) / self.config.shortest
        return decay_M, self.grid_M + self.config.mobility * self.tune_M / self.config.memory

    def memory_parameters(self) -> list[nn.Parameter]:
        """Return frequencies and decays: no weight decay, which would pull them to the start."""
        return [self.tune_M, self.damp_M]

    @torch.no_grad()
    def anchor(self) -> None:
        """Take the present exponents as those at which `scan` computes states."""
        self.anchor_2M.copy_(torch.stack(self.exponents()))

    def initial_state(self, batch: int) -> CarryState:
        """Return the state at a first zero, of which only itself is known."""
        value_BM = torch.ones(batch, self.config.oscillators, dtype=self._complex())
        recent_BR = self.grid_M.new_ones(batch, self.config.recent)
        value_BM = value_BM.to(self.grid_M.device)
        return CarryState(value_BM, torch.zeros_like(value_BM), recent_BR)

    def features(
        self,
        spacings_BT: Tensor,
        level_BT: Tensor,
        state: CarryState,
        readout: Readout | None = None,
    ) -> tuple[Tensor, CarryState]:
        """Read spacings from `state` on.

        Parameters
        ----------
        spacings_BT : Tensor
            Spacings, mean 1.
        level_BT : Tensor
            log(t / 2 pi) at the zero where each spacing begins, rounded to 1e-3, above 0. The
            readout uses that of position 0 for all positions.
        state : CarryState
            State at the zero where position 0 begins, computed at the anchored exponents.
        readout : Readout, optional
            `readout` of the level of position 0, where it was made before.

        Returns
        -------
        features_BTF : Tensor
            Position k has read spacings 0..k and the state: it goes with the prediction of k + 1.
        state : CarryState
            State after the last spacing, detached.

        Raises
        ------
        ValueError
            The spacings last too long for one call: read them in pieces.
        """
        heard = self._listen(TURN * spacings_BT / level_BT, state)
        spacings = torch.cat([state.recent_BR, spacings_BT], dim=1)
        recent_BTR = spacings[:, 1:].unfold(1, self.config.recent, 1)
        centred_BT1 = (level_BT[:, :1] - CENTRE).expand_as(spacings_BT)[..., None]
        # curves are small differences of large sums: bfloat16 would blur them
        with torch.autocast(spacings_BT.device.type, enabled=False):
            curves = _forecast(heard, readout or self.readout(level_BT[:, 0]))
            x = F.gelu(self.first(torch.cat([curves, recent_BTR - 1, centred_BT1], dim=-1)))
            x = x + F.gelu(self.second(x))
        real, imaginary, slope, turn = heard[:, -1].unbind(1)
        after = (torch.complex(real, imaginary), torch.complex(slope, turn))
        return x, CarryState(*after, spacings[:, -self.config.recent :])

    def step(
        self, spacing_B: Tensor, level_B: Tensor, state: CarryState, readout: Readout | None = None
    ) -> tuple[Tensor, CarryState]:
        """Read one spacing: features (B, F) and the state after it."""
        features, state = self.features(spacing_B[:, None], level_B[:, None], state, readout)
        return features[:, 0], state

    @torch.no_grad()
    def scan(self, spacings_WT: Tensor, level_WT: Tensor) -> CarryState:
        """Return the exact states (W, ...) at the start of each of W contiguous windows.

        Parameters
        ----------
        spacings_WT : Tensor
            All spacings from the first zero on, cut into windows of any length T.
        level_WT : Tensor
            Their levels.

        Returns
        -------
        CarryState
            Entry w has read windows 0..w-1 and nothing else, at the anchored exponents.
        """
        elapsed_WT = TURN * spacings_WT / level_WT
        sums = [self._window_sums(piece) for piece in elapsed_WT.split(SCAN_WINDOWS)]
        turn_WM, value_WM, slope_WM = (torch.cat(parts) for parts in zip(*sums, strict=True))
        state = self.initial_state(1)
        value, slope = state.value_BM[0], state.slope_BM[0]
        values, slopes = [], []
        for turn, height, more, steeper in zip(
            turn_WM, elapsed_WT.sum(1), value_WM, slope_WM, strict=True
        ):
            values.append(value)
            slopes.append(slope)
            value, slope = turn * value + more, turn * (slope - height * value) + steeper
        count = self.config.recent
        past = torch.cat([state.recent_BR[0], spacings_WT.flatten()]).unfold(0, count, 1)
        recent_WR = past[: -1 : spacings_WT.shape[1]]
        return CarryState(torch.stack(values), torch.stack(slopes), recent_WR)

    def _window_sums(self, elapsed_WT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turn over each window, and what its own zeros add to value and slope at its end."""
        decay_M, frequency_M = self.anchor_2M
        after_WT = elapsed_WT.flip(1).cumsum(1).flip(1) - elapsed_WT
        total_W1 = elapsed_WT.sum(1, keepdim=True)
        turn_WM = torch.polar(torch.exp(-total_W1 * decay_M), -total_W1 * frequency_M)
        size, cos = torch.exp2(after_WT[..., None] * (-LOG2_E * decay_M)), after_WT[..., None]
        cos = cos * frequency_M
        sin = torch.sin(cos).mul_(size)
        cos.cos_().mul_(size)
        kinds_W2T = torch.stack([torch.ones_like(after_WT), -after_WT], dim=1)
        real_W2M, imaginary_W2M = kinds_W2T @ cos, -(kinds_W2T @ sin)
        value_WM, slope_WM = torch.complex(real_W2M, imaginary_W2M).unbind(1)
        return turn_WM, value_WM, slope_WM

    @torch.no_grad()
    def _listen(self, elapsed_BT: Tensor, state: CarryState) -> Tensor:
        """Real and imaginary parts of h, then of dh/dz, at each position: (B, T, 4, M)."""
        decay_M, frequency_M = self.exponents()
        moved_M = torch.complex(decay_M - self.anchor_2M[0], frequency_M - self.anchor_2M[1])
        start = state.value_BM + moved_M * state.slope_BM
        return _prefix_sums(elapsed_BT, decay_M, frequency_M, start, state.slope_BM)

    def readout(self, level_B: Tensor) -> Readout:
        """Turn the oscillators freely to each offset and mix them, as one matrix per window.

        The parts of dh/dz meet weights that are zero in value: they only pass gradients to the
        exponents, and are left out where there are none.
        """
        with torch.autocast(level_B.device.type, enabled=False):
            decay_M, frequency_M = self.exponents()
            angle = (TURN / level_B[:, None] * self.offsets_J)[..., None] * frequency_M
            cos, sin = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
            mix, cross = rearrange(self.mix_CM2, "c m two -> two c 1 m")
            parts = [mix * cos - cross * sin, mix * sin + cross * cos]
            if torch.is_grad_enabled():
                real, imaginary = parts
                change_M, turn_M = decay_M - decay_M.detach(), frequency_M - frequency_M.detach()
                parts += [
                    real * change_M + imaginary * turn_M,
                    imaginary * change_M - real * turn_M,
                ]
            weights = rearrange(torch.stack(parts, dim=-2), "b c j parts m -> b (parts m) (c j)")
            # what zeros of even density would give, and half the zero at hand: no news in either
            even = torch.stack([decay_M, -frequency_M]) / (decay_M.square() + frequency_M.square())
            even_B2M = even * (level_B / TURN)[:, None, None]
            even_B2M = torch.cat([even_B2M[:, :1] + 0.5, even_B2M[:, 1:]], dim=1)
            return Readout(weights, even_B2M.flatten(1)[:, None] @ weights[:, : 2 * len(decay_M)])

    def _complex(self) -> torch.dtype:
        return torch.complex128 if self.grid_M.dtype == torch.float64 else torch.complex64


def _prefix_sums(
    elapsed_BT: Tensor, decay_M: Tensor, frequency_M: Tensor, start_BM: Tensor, steep_BM: Tensor
) -> Tensor:
    """Parts (B, T, 4, M) of h and dh/dz, by sums of exp(z tau) over the window turned back."""
    tau = elapsed_BT.cumsum(1)[..., None]
    largest = float(tau.max() * decay_M.max())
    if largest > LARGEST_EXPONENT:
        raise ValueError(
            f"spacings_BT lasts {largest:.0f} memory lengths, at most {LARGEST_EXPONENT:.0f} fit "
            f"one call: read it in shorter pieces, or raise zeta.carry.shortest"
        )
    growth, cos = torch.exp2(tau * (LOG2_E * decay_M)), tau * frequency_M
    sin = torch.sin(cos)
    cos.cos_()
    parts = []
    for wave, start, steep in (
        (cos, start_BM.real, steep_BM.real),
        (sin, start_BM.imag, steep_BM.imag),
    ):
        ahead = growth * wave
        total = ahead.cumsum(1).add_(start[:, None])
        moment = ahead.mul_(tau).cumsum(1).add_(steep[:, None])
        parts.append((total, moment.addcmul_(tau, total, value=-1)))
    cos.div_(growth)
    sin.div_(growth)
    heard = tau.new_empty(*elapsed_BT.shape, 4, len(decay_M))
    for n, (real, imaginary) in enumerate(zip(*parts, strict=True)):
        torch.mul(cos, real, out=heard[..., 2 * n, :]).addcmul_(sin, imaginary)
        torch.mul(cos, imaginary, out=heard[..., 2 * n + 1, :]).addcmul_(sin, real, value=-1)
    return heard


def _forecast(heard_BT4M: Tensor, readout: Readout) -> Tensor:
    """Return the forecast curves (B, T, C J)."""
    weights, known = readout
    return heard_BT4M.flatten(2)[..., : weights.shape[1]] @ weights - known


class CarryExtra:
    """Features for `rollout`: the carried memory reads what the model predicts.

    Parameters
    ----------
    memory : CarryMemory
        Anchored.
    states : CarryState
        State at the start of each context, (W, ...), from `CarryMemory.scan`.
    level_W : Tensor
        Level at the start of each context; it stays while the rollout lasts (it moves by 1e-3 in
        a thousand spacings).
    """

    def __init__(self, memory: CarryMemory, states: CarryState, level_W: Tensor) -> None:
        self.memory, self.states, self.level_W = memory, states, level_W

    def start(self, context_BT: Tensor, rows: slice) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Read the context of windows `rows`: features (B, T, F) and the state after it."""
        level_B = self.level_W[rows]
        readout = self.memory.readout(level_B)
        level_BT = level_B[:, None].expand_as(context_BT)
        before = self.states.rows(rows)
        features, state = self.memory.features(context_BT, level_BT, before, readout)
        return features, (*state, level_B, *readout)

    def step(
        self, spacing_B: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Read one more spacing: features (B, F) and the next state."""
        before, (level_B, *readout) = CarryState(*state[:3]), state[3:]
        features, after = self.memory.step(spacing_B, level_B, before, Readout(*readout))
        return features, (*after, level_B, *readout)
