"""A three-dimensional neural cellular automaton between a surface and a surface.

Every cell holds C numbers and follows the same rule, which sees the cell and its six neighbours in
fixed slots. The surface comes in on one face, is held there, and what has reached the face opposite
after the last step is added to it: output = surface + alpha * readout. `alpha` starts at 0, so that
a lattice starts as no lattice. The rule starts as transport from face to face: with a rule of zeros
nothing would reach the far side, and neither alpha nor the rule could ever learn.

With as many steps as layers, each output number depends on the one input number in line with it:
a signal that also moves sideways arrives later. Whatever mixes columns needs further steps.

Legend: B batch, S size of the surface, Z, Y, X cells along the axes, C channels, H hidden units,
P slots of the neighbourhood (7).
"""

from __future__ import annotations

import warnings

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mneme.lattice.adapter import WidthError
from mneme.lattice.blocks import initialise, linear, uniform
from mneme.lattice.config import CellConfig

SLOTS = ((0, 0, 0), (-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
"""Where slot k of a cell's neighbourhood looks, along z, y, x."""
INPUT_FACES = {
    "single": ((0, 0),),
    "triple": ((0, 0), (1, 0), (2, 0)),
    "full": ((0, 0), (0, -1), (1, 0), (1, -1), (2, 0), (2, -1)),
}
"""(axis, place) of each face on which the surface comes in; it goes out on the face opposite."""
FIRST_RULE = 0.1
"""Size of the learned part's last layer at the start, as a share of PyTorch's."""


class LatticeWarning(UserWarning):
    """A lattice whose output cannot know its input."""


class Lattice(nn.Module):
    """Surface in, surface out.

    Parameters
    ----------
    config : CellConfig
        Box, cell and steps.
    frozen : bool
        Leave the rule and the way in at their random initial weights (a control: the learned part
        is then drawn at full size); alpha and the readout are trained.
    generator : torch.Generator
        Source of every initial weight.

    Warns
    -----
    LatticeWarning
        Fewer steps than a signal needs to cross the box.

    References
    ----------
    Mordvintsev, Randazzo, Niklasson and Levin 2020 (neural cellular automata); Liu, Dai, So and Le
    2021 (gated MLP).
    """

    mask_ZYXC: Tensor

    def __init__(self, config: CellConfig, *, frozen: bool, generator: torch.Generator) -> None:
        super().__init__()
        if config.steps < config.crossing:
            warnings.warn(
                f"a signal needs {config.crossing} steps to cross a lattice of {config.shape} "
                f"cells, {config.steps} are set: its output cannot know its input",
                LatticeWarning,
                stacklevel=2,
            )
        self.config, self.faces = config, INPUT_FACES[config.surface]
        channels, count = config.channels, len(self.faces)
        self.cell = MLPCell(config) if config.kind == "mlp" else GatedCell(config)
        self.inject_C = nn.Parameter(torch.empty(channels))
        self.readout = linear(channels, count)
        self.alpha = nn.Parameter(torch.zeros(()))
        # channel c belongs to face c mod count: faces that meet in an edge do not mix there
        self.owner_C = [c % count for c in range(channels)]
        initialise(self, generator)
        self.cell.start(self._directions(), small=not frozen)
        uniform(self.inject_C, 3**0.5, generator)  # variance 1: the surface comes in at its size
        self.register_buffer("mask_ZYXC", self._mask(), persistent=False)
        if frozen:
            self.cell.requires_grad_(False)
            self.inject_C.requires_grad_(False)

    def forward(self, surface_BS: Tensor) -> Tensor:
        """Return the surface (B, S) that leaves the lattice.

        Raises
        ------
        WidthError
            The surface has another size than the lattice's faces.
        """
        return surface_BS + self.alpha * self.shown(surface_BS)

    def shown(self, surface_BS: Tensor) -> Tensor:
        """Return what the far faces show after the last step, (B, S).

        With one face, only layers are computed that the surface has reached and that can still
        reach the far face: at 10 steps through 11 layers that is one layer a step, not eleven.
        """
        source_BZYXC = self.source(surface_BS)
        dropping = self.training and self.config.dropout > 0  # draws for every cell of the box
        if self.config.surface == "single" and not dropping:
            return self.read(self._crossed(source_BZYXC))
        state_BZYXC = source_BZYXC
        for _ in range(self.config.steps):
            state_BZYXC = self._step(state_BZYXC, source_BZYXC)
        return self.read(state_BZYXC)

    def _crossed(self, source_BZYXC: Tensor) -> Tensor:
        """Return the last layers of the state after the last step; the far face is among them.

        Layers that the surface has not reached are the same for all surfaces: one batch row.
        """
        far, steps = source_BZYXC.shape[1] - 1, self.config.steps
        met_BZYXC, rest_ZYXC = source_BZYXC[:, :1], source_BZYXC[:1, 1:]
        for step in range(1, steps + 1):
            if steps >= far:
                first, last = max(far - steps + step, 0), min(step, far)
                beyond = min(last + 1, far) - min(step - 1, far)
                ahead = rest_ZYXC[:, :beyond].expand(len(source_BZYXC), -1, -1, -1, -1)
                cut = (min(first, 1), min(far - last, 1))
                met_BZYXC = self._step(
                    torch.cat([met_BZYXC, ahead], 1), source_BZYXC, first=first, cut=cut
                )
            if step < far:
                rest_ZYXC = self._step(rest_ZYXC, source_BZYXC[:1], first=step + 1, cut=(1, 0))
        if steps >= far:
            return met_BZYXC
        return rest_ZYXC.expand(len(source_BZYXC), -1, -1, -1, -1)

    def states(self, surface_BS: Tensor) -> Tensor:
        """Return the state before the first and after every step, (steps + 1, B, C, Z, Y, X)."""
        source_BZYXC = self.source(surface_BS)
        states = [source_BZYXC]
        for _ in range(self.config.steps):
            states.append(self._step(states[-1], source_BZYXC))
        return rearrange(torch.stack(states), "t b z y x c -> t b c z y x")

    def source(self, surface_BS: Tensor) -> Tensor:
        """Return the state (B, Z, Y, X, C) that is 0 but on the input faces."""
        size = self.config.surface_size
        if surface_BS.ndim != 2 or surface_BS.shape[1] != size:
            raise WidthError(
                f"surfaces of shape {tuple(surface_BS.shape)} do not fit a {self.config.surface} "
                f"surface of {size} numbers: build the adapter for {size}"
            )
        state_BZYXC = surface_BS.new_zeros(len(surface_BS), *self.mask_ZYXC.shape)
        for face, part in enumerate(self._split(surface_BS)):
            axis, place = self.faces[face]
            own = [c for c, owner in enumerate(self.owner_C) if owner == face]
            state_BZYXC.select(axis + 1, place)[..., own] = part[..., None] * self.inject_C[own]
        return state_BZYXC

    def read(self, state_BZYXC: Tensor) -> Tensor:
        """Return what the faces opposite to the input's show, (B, S)."""
        parts = []
        for face, (axis, place) in enumerate(self.faces):
            cells = state_BZYXC.select(axis + 1, -1 if place == 0 else 0)
            weight_C, bias = self.readout.weight[face], self.readout.bias[face]
            # not linear: a multiple of the surface itself would not move a cosine, and alpha's
            # gradient would be 0 at the start
            parts.append((F.gelu(cells) @ weight_C + bias).flatten(1))
        return torch.cat(parts, 1)

    def _step(
        self,
        state_BZYXC: Tensor,
        source_BZYXC: Tensor,
        *,
        first: int = 0,
        cut: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """Return layers after one more step.

        `first` is the place in the box of the first layer returned; `cut` layers of the state at
        its two ends along z are only seen by the others.
        """
        if self.config.checkpointed and torch.is_grad_enabled():
            stepped = checkpoint(
                self._update, state_BZYXC, source_BZYXC, first, cut, use_reentrant=False
            )
            assert isinstance(stepped, Tensor)
            return stepped
        return self._update(state_BZYXC, source_BZYXC, first, cut)

    def _update(
        self, state_BZYXC: Tensor, source_BZYXC: Tensor, first: int, cut: tuple[int, int]
    ) -> Tensor:
        new_BZYXC = inner(state_BZYXC, cut) + self.cell(state_BZYXC, cut)
        layers = slice(first, first + new_BZYXC.shape[1])
        return torch.where(self.mask_ZYXC[layers], source_BZYXC[:, layers], new_BZYXC)

    def _split(self, surface_BS: Tensor) -> list[Tensor]:
        """Cut the surface into its faces (B, rows, columns)."""
        box = list(self.config.shape)
        sizes = [box[:axis] + box[axis + 1 :] for axis, _ in self.faces]
        parts = surface_BS.split([rows * columns for rows, columns in sizes], 1)
        return [part.unflatten(1, size) for part, size in zip(parts, sizes, strict=True)]

    def _mask(self) -> Tensor:
        """Mark the channels of input faces, which hold the surface at every step."""
        mask_ZYXC = torch.zeros(*self.config.shape, self.config.channels, dtype=torch.bool)
        for face, (axis, place) in enumerate(self.faces):
            own = [c for c, owner in enumerate(self.owner_C) if owner == face]
            mask_ZYXC.select(axis, place)[..., own] = True
        return mask_ZYXC

    def _directions(self) -> list[int]:
        """Return the slot from which each channel is transported: towards its input face."""
        slots = [1 + 2 * axis + (0 if place == 0 else 1) for axis, place in self.faces]
        return [slots[owner] for owner in self.owner_C]


class MLPCell(nn.Module):
    """Rule: a linear map of the neighbourhood and a small dense network of it."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.config = config
        seen = len(SLOTS) * config.channels
        self.move = linear(seen, config.channels, bias=False)
        self.inward = linear(seen, config.hidden)
        self.outward = linear(config.hidden, config.channels)
        self.dropout = CellDropout(config.dropout)

    def start(self, slots_C: list[int], *, small: bool) -> None:
        """Begin as transport: see `begin_as_transport`."""
        begin_as_transport(self.move, self.outward, slots_C, small=small)

    def forward(self, state_BZYXC: Tensor, cut: tuple[int, int]) -> Tensor:
        """Return the change of every cell but those of `cut` layers at the ends along z."""
        channels, hidden = self.config.channels, self.config.hidden
        weight = torch.cat([self.move.weight, self.inward.weight])
        bias = torch.cat([self.inward.bias.new_zeros(channels), self.inward.bias])
        seen = stencil(
            state_BZYXC,
            weight.unflatten(1, (len(SLOTS), channels)),
            bias,
            boundary=self.config.boundary,
            cut=cut,
        )
        moved, heard = seen.split([channels, hidden], -1)
        return moved + self.dropout(self.outward(F.gelu(heard)))


class GatedCell(nn.Module):
    """Rule: a linear map of the neighbourhood and a gated MLP over its slots.

    Half of a cell's hidden units are multiplied by what the other half of its neighbourhood says:
    gMLP's spatial gating over the seven slots, with one weight a slot and unit.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.config = config
        self.move = linear(len(SLOTS) * config.channels, config.channels, bias=False)
        self.inward = linear(config.channels, 2 * config.hidden)
        self.gate_PH = nn.Parameter(torch.zeros(len(SLOTS), config.hidden))
        self.open_H = nn.Parameter(torch.ones(config.hidden))
        self.outward = linear(config.hidden, config.channels)
        self.dropout = CellDropout(config.dropout)

    def start(self, slots_C: list[int], *, small: bool) -> None:
        """Begin as transport with open gates: see `begin_as_transport`."""
        begin_as_transport(self.move, self.outward, slots_C, small=small)

    def forward(self, state_BZYXC: Tensor, cut: tuple[int, int]) -> Tensor:
        """Return the change of every cell but those of `cut` layers at the ends along z."""
        own, others = F.gelu(self.inward(state_BZYXC)).chunk(2, -1)
        weight_KPC = self.move.weight.unflatten(1, (len(SLOTS), -1))
        options = {"boundary": self.config.boundary, "cut": cut}
        gate_PH1, groups = self.gate_PH.T[..., None], self.config.hidden
        gate = stencil(others, gate_PH1, self.open_H, groups=groups, **options)
        moved = stencil(state_BZYXC, weight_KPC, None, **options)
        return moved + self.dropout(self.outward(inner(own, cut) * gate))


class CellDropout(nn.Module):
    """Leave out the learned update of whole cells in training; the others make up for it."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, update_BZYXC: Tensor) -> Tensor:
        """Return the update with cells left out in training, the others enlarged."""
        if not self.training or not self.chance:
            return update_BZYXC
        keep = torch.rand(update_BZYXC.shape[:-1]) >= self.chance  # on the CPU: one stream for all
        return update_BZYXC * keep[..., None].to(update_BZYXC) / (1 - self.chance)


@torch.no_grad()
def begin_as_transport(
    move: nn.Linear, outward: nn.Linear, slots_C: list[int], *, small: bool
) -> None:
    """Let each channel become what its neighbour in `slots_C` holds; make the learned part small.

    The learned part must not be 0: its inner layer would get no gradient at the first step.
    """
    channels = len(slots_C)
    move.weight.zero_()
    for channel, slot in enumerate(slots_C):
        move.weight[channel, channel] = -1.0
        move.weight[channel, slot * channels + channel] = 1.0
    if small:
        outward.weight.mul_(FIRST_RULE)
        outward.bias.zero_()


def stencil(
    state_BZYXC: Tensor,
    weight_KPC: Tensor,
    bias_K: Tensor | None,
    *,
    boundary: str,
    cut: tuple[int, int] = (0, 0),
    groups: int = 1,
) -> Tensor:
    """Return linear maps of what each cell sees, (B, Z, Y, X, K), Z without the layers of `cut`.

    Parameters
    ----------
    state_BZYXC : Tensor
        A state.
    weight_KPC : Tensor
        Weights by slot: slot p holds the cell at `SLOTS[p]` from here.
    bias_K : Tensor, optional
        Added everywhere.
    boundary : {"walls", "periodic"}
        Zeros beyond the box, or, in y and x, its other side; beyond z are always zeros.
    cut : (int, int)
        0 or 1 layer at each end along z that is only seen, where a box goes on; 0 at its walls.
    groups : int
        Groups of channels that do not see one another, as in a convolution.
    """
    # 20 of the 27 weights are 0, and still this is not slower than gathering seven neighbours
    kernel = weight_KPC.new_zeros(len(weight_KPC), weight_KPC.shape[2], 27)
    places = [13 + 9 * dz + 3 * dy + dx for dz, dy, dx in SLOTS]
    kernel[:, :, places] = weight_KPC.movedim(1, 2)
    low, high = 1 - cut[0], 1 - cut[1]
    if low != high:
        state_BZYXC = F.pad(state_BZYXC, (0, 0, 0, 0, 0, 0, low, high))
    along_z = low * high
    padding = (along_z, 1, 1)
    if boundary == "periodic":
        wrapped = torch.cat([state_BZYXC[:, :, -1:], state_BZYXC, state_BZYXC[:, :, :1]], 2)
        state_BZYXC = torch.cat([wrapped[:, :, :, -1:], wrapped, wrapped[:, :, :, :1]], 3)
        padding = (along_z, 0, 0)
    seen = F.conv3d(
        state_BZYXC.movedim(-1, 1),
        kernel.unflatten(2, (3, 3, 3)).contiguous(memory_format=torch.channels_last_3d),
        bias_K,
        padding=padding,
        groups=groups,
    )
    return seen.movedim(1, -1)


def inner(state_BZYXC: Tensor, cut: tuple[int, int]) -> Tensor:
    """Return a state without `cut` layers at its two ends along z."""
    return state_BZYXC[:, cut[0] : state_BZYXC.shape[1] - cut[1]]
