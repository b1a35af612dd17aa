"""Adapter and lattice put together: what goes in and what comes out in each of the four modes.

`surface_only` sends a surface through the core; `autoencoder` reconstructs an embedding from what
leaves the core; `generator` makes an embedding from a condition; `dialogue` turns a question's
embedding into an answer's. The source calls this the embedding processor.

Legend: B batch, D width of the embedding, S size of the surface, K numbers of a condition.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mneme.core.config import require
from mneme.core.seeds import torch_generator
from mneme.lattice.adapter import Adapter, WidthError
from mneme.lattice.automaton import Lattice
from mneme.lattice.blocks import initialise, linear, parameter_count
from mneme.lattice.config import AdapterConfig, CellConfig, Core, Mode
from mneme.lattice.control_cores import CurveCore, DenseCore


class Output(NamedTuple):
    """What a processor makes."""

    surface_BS: Tensor
    """Surface that leaves the core."""
    embedding_BD: Tensor | None
    """Embedding decoded from it; None in mode `surface_only`."""


class Processor(nn.Module):
    """Embedding, surface or condition in; surface and embedding out.

    Parameters
    ----------
    mode : Mode
        What goes in and out.
    adapter : AdapterConfig
        Encoder and decoder.
    cell : CellConfig
        Lattice, and the size of the surface.
    core : Core
        What stands between surface in and surface out.
    width : int
        Numbers D of an embedding.
    condition : int, optional
        Numbers K of a condition; given exactly in mode `generator`.
    seed : int
        Decides the initial weights; adapter, core and condition draw from streams of their own, so
        that arms with another core start from the same adapter.

    Raises
    ------
    ConfigError
        Sizes that do not go together.
    """

    def __init__(
        self,
        mode: Mode,
        adapter: AdapterConfig,
        cell: CellConfig,
        *,
        core: Core,
        width: int,
        condition: int | None,
        seed: int,
    ) -> None:
        super().__init__()
        needed = (mode == "generator") == (condition is not None)
        require(needed, "condition", f"given in mode generator only (this is {mode})", condition)
        self.mode: Mode = mode
        size = cell.surface_size
        self.adapter = Adapter(
            adapter, width=width, surface=size, generator=torch_generator(seed, "adapter")
        )
        self.core = build_core(core, cell, generator=torch_generator(seed, "core"))
        self.condition = None if condition is None else linear(condition, size)
        if self.condition is not None:
            initialise(self.condition, torch_generator(seed, "condition"))

    def forward(self, given: Tensor) -> Output:
        """Process a batch.

        Parameters
        ----------
        given : Tensor
            Surfaces (B, S) in mode `surface_only`, conditions (B, K) in mode `generator`,
            embeddings (B, D) otherwise.

        Returns
        -------
        Output

        Raises
        ------
        WidthError
            Vectors of another width than the mode takes.
        """
        surface_BS = self.core(self.surface(given))
        embedding_BD = None
        if self.mode != "surface_only":
            embedding_BD = self.adapter.decode(surface_BS)
        return Output(surface_BS, embedding_BD)

    def surface(self, given: Tensor) -> Tensor:
        """Return the surface (B, S) that enters the core."""
        if self.mode == "surface_only":
            size = self.adapter.surface
            if given.ndim != 2 or given.shape[1] != size:
                raise WidthError(
                    f"mode surface_only takes surfaces of {size} numbers, got {tuple(given.shape)}"
                )
            return given
        if self.condition is None:
            return self.adapter.encode(given)
        if given.ndim != 2 or given.shape[1] != self.condition.in_features:
            raise WidthError(
                f"mode generator takes conditions of {self.condition.in_features} numbers, got "
                f"{tuple(given.shape)}"
            )
        return self.condition(given)


def build_core(core: Core, cell: CellConfig, *, generator: torch.Generator) -> nn.Module:
    """Build what stands between surface in and surface out.

    Parameters
    ----------
    core : {"off", "lattice", "mlp", "curve", "frozen"}
        Nothing; the lattice; a dense network, or one curve for all numbers, with as many
        parameters; a lattice whose rule keeps its random weights.
    cell : CellConfig
        The lattice, also the one that `mlp` and `curve` are matched to.
    generator : torch.Generator
        Source of every initial weight.
    """
    if core == "off":
        return nn.Identity()
    if core in ("mlp", "curve"):
        crossing = replace(cell, steps=max(cell.steps, cell.crossing))  # counted only: no warning
        lattice = Lattice(crossing, frozen=False, generator=torch.Generator().manual_seed(0))
        parameters = parameter_count(lattice)
        if core == "curve":
            return CurveCore(parameters, generator=generator)
        return DenseCore(cell.surface_size, parameters, generator=generator)
    return Lattice(cell, frozen=core == "frozen", generator=generator)
