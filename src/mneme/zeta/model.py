"""SpacingMDN: a causal transformer over spacings with a Gaussian-mixture head and memory arms.

Legend: B batch, T position, D width, K mixture components, M slots, F extra features, N heads.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mneme.core.config import require
from mneme.zeta.attention import CausalAttention, Distances, KVCache, Rotary
from mneme.zeta.config import SLOT_ARMS, Arm, ModelConfig
from mneme.zeta.memory import Bank, Cross, Reader, Slots
from mneme.zeta.mixture import Mixture

POSITIONS = ("rope", "learned", "distance")
FIRST_MEAN, LAST_MEAN, FIRST_SCALE = 0.3, 2.0, 0.3
ATTENTION_GAIN = 4.0  # attention averages many values: unscaled, its branch starts almost silent


class Output(NamedTuple):
    """What one forward pass tells."""

    mixture: Mixture
    """Density of the next spacing after each position, (B, T, K)."""
    memory_BMD: Tensor | None
    """What the slots hold at the end of the window; None without slots."""
    attention: Tensor | None
    """Probabilities (B, layers, N, query, key) over slots (`prefix`) and positions, if asked."""
    cache: KVCache | None
    """The cache that was given, extended by these positions."""


class SpacingMDN(nn.Module):
    """Density of the next spacing from the spacings so far.

    Parameters
    ----------
    config : ModelConfig
        Sizes.
    arm : Arm
        Where the memory sits. `carry`, `primes` and `oracle` bring it in as `extra` features.
    position : {"rope", "learned", "distance"}
        Position coding; positions run over slots and data in `prefix`. `distance` is `rope` with
        values that turn by their distance in t (`attention.Distances`).
    slot_id : bool
        Whether slots carry identity embeddings.
    extra : int
        Features F per position from outside, 0 = none.
    generator : torch.Generator
        Source of every initial weight; the global generator is neither read nor moved.

    Raises
    ------
    ConfigError
        Slot identities without slots; an arm from outside without features.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        arm: Arm,
        position: str,
        slot_id: bool,
        extra: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        has_slots = arm in SLOT_ARMS
        require(position in POSITIONS, "position", f"one of {', '.join(POSITIONS)}", position)
        require(has_slots or not slot_id, "slot_id", f"false without slots (arm {arm})", slot_id)
        outside = arm in ("carry", "primes", "oracle")
        require(extra >= (1 if outside else 0), "extra", f"given to arm {arm}", extra)
        self.config, self.arm, self.extra = config, arm, extra
        width, heads = config.width, config.heads
        self.prefix = config.slots if arm == "prefix" else 0
        self.positions = config.window + self.prefix
        self.distance = position == "distance"
        rotary = None if position == "learned" else Rotary(width // heads, self.positions)
        self.embed = nn.utils.skip_init(nn.Linear, 1, width)
        self.place = None if rotary else nn.Parameter(torch.empty(self.positions, width))
        self.features = _bare(extra, width) if extra else None
        self.blocks = nn.ModuleList(
            Block(width, heads, layer=layer, rotary=rotary, distances=self.distance)
            for layer in range(config.layers)
        )
        self.bank = Bank(config.slots, width, slot_id=slot_id) if has_slots else None
        self.reader = Reader(config.slots, width) if has_slots and not self.prefix else None
        self.absent: int | None = None
        self.modulate: nn.Module | None = None
        # film and cross must act inside the stack; readout and gating act on what leaves it
        self.read_at = config.layers // 2 if arm in ("film", "cross") else config.layers
        if arm == "film":
            later = config.layers - self.read_at
            self.modulate = _bare(width, 2 * later * width)
        elif arm == "cross":
            self.modulate = Cross(width)
        elif self.reader is not None:
            self.modulate = _bare(width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.utils.skip_init(nn.Linear, width, 3 * config.components)
        self.shortcut = _bare(extra, 3 * config.components) if extra else None
        _initialise(self, generator)

    def memory_parameters(self) -> list[nn.Parameter]:
        """Return the bank's vectors: what gets the memory learning rate and the norm cap."""
        return [] if self.bank is None else list(self.bank.parameters())

    def empty_cache(self) -> KVCache:
        """Return a cache with room for a whole window."""
        return KVCache(self.positions)

    def forward(
        self,
        spacings_BT: Tensor,
        *,
        extra_BTF: Tensor | None = None,
        level_B: Tensor | None = None,
        slots: Slots | None = None,
        cache: KVCache | None = None,
        attention: bool = False,
    ) -> Output:
        """Predict the spacing after each position.

        Parameters
        ----------
        spacings_BT : Tensor
            Spacings, mean 1, float32 or the model's type; with `cache` those that follow it.
        extra_BTF : Tensor, optional
            Features known at each position (they may use its spacing and earlier ones).
        level_B : Tensor, optional
            Coarse height log(t / 2 pi) of each window, for `distance` only.
        slots : Slots, optional
            Slots to replace, row by row; given at every piece of a cached sequence.
        cache : KVCache, optional
            What was seen before (`empty_cache()` at the start); extended in place.
        attention : bool
            Return the attention maps, by a slower explicit path.

        Returns
        -------
        Output

        Raises
        ------
        ConfigError
            More positions than the window holds; features or heights missing, unasked or of
            another shape; slots for an arm without slots.
        """
        self._check(spacings_BT, extra_BTF, level_B, slots, cache)
        batch, steps = spacings_BT.shape
        slots = self._present(slots, batch)
        past = 0 if cache is None else cache.length
        told = self.prefix and past  # slots in front have been read; their keys are in the cache
        vectors = None if self.bank is None or told else self.bank(batch, slots)
        x = self._embed(spacings_BT, extra_BTF)
        at_BT = None if level_B is None else _places(spacings_BT, level_B, cache)
        if self.prefix and past == 0:
            assert vectors is not None
            x = torch.cat([vectors.to(x.dtype), x], dim=1)
            at_BT = None if at_BT is None else F.pad(at_BT, (self.prefix, 0))
        if self.place is not None:
            x = x + self.place[past : past + x.shape[1]]
        x, memory, maps = self._stream(x, at_BT, vectors, slots, cache, attention)
        if cache is not None:
            cache.length = past + x.shape[1]
        x = self.norm(x)
        if self.prefix:
            memory = x[:, : self.prefix] if past == 0 else None
            x = x[:, -steps:]
        mixture = self._density(x, extra_BTF)
        return Output(mixture, memory, torch.stack(maps, dim=1) if attention else None, cache)

    def _present(self, slots: Slots | None, batch: int) -> Slots | None:
        """Zero the slot that this model does without, besides what is replaced anyway."""
        if self.absent is None or self.bank is None:
            return slots
        if slots is None:
            like = self.bank.slots_MD
            keep_BM = torch.ones(batch, len(like), dtype=torch.bool, device=like.device)
            slots = Slots(keep_BM=keep_BM, values_BMD=like.new_zeros(batch, *like.shape))
        kept_M = torch.arange(self.config.slots, device=slots.keep_BM.device) != self.absent
        zeroed_BMD = slots.values_BMD * kept_M[:, None]
        return Slots(keep_BM=slots.keep_BM & kept_M, values_BMD=zeroed_BMD)

    def _density(self, x: Tensor, extra_BTF: Tensor | None) -> Mixture:
        """Read the mixture; features from outside have a way of their own to it."""
        # Scales below .01 around means near 1 need more digits than bfloat16 has.
        with torch.autocast(x.device.type, enabled=False):
            kind = next(self.head.parameters()).dtype
            raw = self.head(x.to(kind))
            if self.shortcut is not None and extra_BTF is not None:
                raw = raw + self.shortcut(extra_BTF.to(kind))
        return Mixture.of(raw, scale_floor=self.config.scale_floor)

    def _embed(self, spacings_BT: Tensor, extra_BTF: Tensor | None) -> Tensor:
        """Return the stream before the first block, from each position's own spacing."""
        x = self.embed((spacings_BT - 1)[..., None])
        return x if self.features is None else x + self.features(extra_BTF)

    def _stream(
        self,
        x: Tensor,
        at_BT: Tensor | None,
        vectors: Tensor | None,
        slots: Slots | None,
        cache: KVCache | None,
        attention: bool,
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Run the blocks with the memory between them; return stream, slot states, maps."""
        maps: list[Tensor] = []
        memory, films = None, []
        for layer in range(len(self.blocks) + 1):
            if self.reader is not None and layer == self.read_at:
                assert vectors is not None
                read = self.reader(x, vectors, slots, cache)
                memory = self.reader.states(vectors, read[:, -1])
                x, films = self._use(x, vectors, read)
            if layer == len(self.blocks):
                break
            if films:
                scale, shift = films.pop(0)
                x = x * (1 + scale) + shift
            x, probabilities = self.blocks[layer](x, at_BT=at_BT, cache=cache, maps=attention)
            if probabilities is not None:
                maps.append(probabilities)
        return x, memory, maps

    def _use(
        self, x: Tensor, vectors: Tensor, read: Tensor
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Let the stream use what the slots hold: at once, or (film) before each later block."""
        reader, modulate = cast(Reader, self.reader), self.modulate
        assert modulate is not None
        if isinstance(modulate, Cross):
            return x + modulate(x, reader, vectors, read), []
        change = modulate(reader.total(vectors, read))
        if self.arm == "film":
            pieces = change.chunk(2 * (len(self.blocks) - self.read_at), dim=-1)
            return x, list(zip(pieces[::2], pieces[1::2], strict=True))
        return (x + change if self.arm == "readout" else x * change), []

    def _check(
        self,
        spacings_BT: Tensor,
        extra_BTF: Tensor | None,
        level_B: Tensor | None,
        slots: Slots | None,
        cache: KVCache | None,
    ) -> None:
        steps = spacings_BT.shape[1]
        seen = 0 if cache is None else max(cache.length - self.prefix, 0)
        room = self.config.window - seen
        require(1 <= steps <= room, "spacings_BT", f"1..{room} positions in this window", steps)
        asked = (*spacings_BT.shape, self.extra) if self.extra else None
        given = None if extra_BTF is None else tuple(extra_BTF.shape)
        require(given == asked, "extra_BTF", f"of shape {asked}", given)
        asked = (len(spacings_BT),) if self.distance else None
        given = None if level_B is None else tuple(level_B.shape)
        require(given == asked, "level_B", f"of shape {asked}", given)
        fits = slots is None or self.bank is not None
        require(fits, "slots", f"absent for arm {self.arm}, which has none", "Slots")


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a GELU MLP four times as wide."""

    def __init__(
        self, width: int, heads: int, *, layer: int, rotary: Rotary | None, distances: bool
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalAttention(
            width, heads, layer=layer, rotary=rotary, distances=distances
        )
        self.up = nn.utils.skip_init(nn.Linear, width, 4 * width)
        self.down = nn.utils.skip_init(nn.Linear, 4 * width, width)

    def forward(
        self, x_BTD: Tensor, *, at_BT: Tensor | None, cache: KVCache | None, maps: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the stream after this block, and attention probabilities if asked."""
        mixed, probabilities = self.attention(
            self.norm1(x_BTD), at_BT=at_BT, cache=cache, maps=maps
        )
        x_BTD = x_BTD + mixed
        return x_BTD + self.down(F.gelu(self.up(self.norm2(x_BTD)))), probabilities


def _bare(inputs: int, outputs: int) -> nn.Linear:
    return cast(nn.Linear, nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False))


def _places(spacings_BT: Tensor, level_B: Tensor, cache: KVCache | None) -> Tensor:
    """Return where each spacing ends in t, counted from the window's first zero."""
    at_BT = (spacings_BT * (2 * math.pi / level_B)[:, None]).cumsum(1)
    if cache is not None:
        at_BT = at_BT if cache.at_B is None else at_BT + cache.at_B[:, None]
        cache.at_B = at_BT[:, -1]
    return at_BT


def _initialise(model: SpacingMDN, generator: torch.Generator) -> None:
    """Draw all weights: variance 1 / inputs, residual branches narrower with depth."""
    residual = (2 * len(model.blocks)) ** -0.5
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                continue
            if name == "embed.bias":  # at 0, the first norm would pass on the spacing's sign only
                p.normal_(generator=generator)
                continue
            if p.ndim == 1:
                p.zero_()
                continue
            inputs = model.config.width if p.ndim == 3 or name.endswith("_MD") else p.shape[-1]
            p.normal_(std=inputs**-0.5, generator=generator)
            if name.endswith("attention.out.weight"):
                p.mul_(ATTENTION_GAIN * residual)
            elif name.endswith("down.weight"):
                p.mul_(residual)
            elif name in ("place", "head.weight", "shortcut.weight", "modulate.weight"):
                p.mul_(0.1)
        for module in model.modules():
            if isinstance(module, Distances):
                module.initialise()
        _, means, scales = cast(Tensor, model.head.bias).chunk(3)
        means.copy_(torch.linspace(FIRST_MEAN, LAST_MEAN, len(means)))
        scales.fill_(math.log(math.expm1(FIRST_SCALE)))
