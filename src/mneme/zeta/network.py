"""A transformer arm with all it needs around it, reading windows by their place in the series.

Arms differ in what they see of the past: most see one window, `carry` also a state that has read
every window before it. Here both are one call, so training and measuring need not know.

Legend: B batch, W windows, T position, F extra features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mneme.core.config import require
from mneme.core.seeds import torch_generator
from mneme.zeta.carry import CarryExtra, CarryMemory
from mneme.zeta.carry_config import CarryConfig
from mneme.zeta.config import CARRY_ARMS, PHASE_ARMS, ModelConfig, RunConfig
from mneme.zeta.memory import Slots
from mneme.zeta.model import Output, SpacingMDN
from mneme.zeta.prime_config import RowConfig
from mneme.zeta.prime_scale import RowScaler


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """Consecutive windows of a series, and which of them train and select."""

    spacings_WT: Tensor
    """Spacings (W, window), float32; every window from the series' first on, none for testing."""
    level_WT: Tensor
    """Coarse height log(t / 2 pi) of the zero at which each spacing begins (W, window), float32."""
    train: Tensor
    """Windows that train, int64, ascending."""
    val: Tensor
    """Windows on which the best state is chosen, int64, ascending."""
    told_UTF: Tensor | None = None
    """What a memory without weights tells at each position of some windows (U, window - 1, F):
    features may use the position's spacing and earlier ones only. None where there is none."""
    place_W: Tensor | None = None
    """Row of `told_UTF` of each window, int64; -1 where it tells nothing. None with it."""

    def to(self, device: torch.device) -> Material:
        """Return the same on `device`."""
        return Material(
            spacings_WT=self.spacings_WT.to(device),
            level_WT=self.level_WT.to(device),
            train=self.train.to(device),
            val=self.val.to(device),
            told_UTF=None if self.told_UTF is None else self.told_UTF.to(device),
            place_W=None if self.place_W is None else self.place_W.to(device),
        )

    def told(self, rows_B: Tensor) -> Tensor:
        """Return what the memory tells in windows `rows_B` (B,): features (B, window - 1, F)."""
        assert self.told_UTF is not None, "no features were made"
        assert self.place_W is not None
        place_B = self.place_W[rows_B]
        assert bool((place_B >= 0).all()), "features of other windows were made"
        return self.told_UTF[place_B]


class Network(nn.Module):
    """SpacingMDN with the carried memory, if the arm has one.

    A memory without weights (`primes_transformer`) stands in the material instead.
    """

    def __init__(
        self,
        model: SpacingMDN,
        memory: CarryMemory | None,
        *,
        reset: bool,
        scaler: RowScaler | None = None,
    ) -> None:
        super().__init__()
        self.model, self.memory, self.reset, self.scaler = model, memory, reset, scaler
        self._table = None

    def forward(
        self, material: Material, rows: Tensor, *, slots: Slots | None, attention: bool = False
    ) -> Output:
        """Predict spacings 2.. of windows `rows` (B,) from those before, (B, window - 1, K).

        With a carried memory `refresh` must have read `material` first.
        """
        spacings_BT = material.spacings_WT[rows, :-1]
        extra_BTF = None
        if self.memory is not None:
            assert self._table is not None, "refresh first"
            level_BT = material.level_WT[rows, :-1]
            extra_BTF, _ = self.memory.features(spacings_BT, level_BT, self._table.rows(rows))
        elif self.scaler is not None:
            extra_BTF = self.scaler(material.told(rows))
        return self.model(
            spacings_BT,
            extra_BTF=extra_BTF,
            level_B=self.level(material, rows),
            slots=slots,
            attention=attention,
        )

    @property
    def rolls(self) -> bool:
        """Whether there are rollouts: not where rows are made from heights that have come."""
        return self.scaler is None

    def adapt(self, material: Material) -> None:
        """Take the units of what is read beside the spacings from the windows that train."""
        if self.scaler is not None:
            told_UTF = material.told(material.train)
            self.scaler.standardise(told_UTF.flatten(0, 1).cpu().numpy())

    def level(self, material: Material, rows: Tensor) -> Tensor | None:
        """Return the coarse height of windows `rows` (B,) if the position coding reads it."""
        return material.level_WT[rows, 0] if self.model.distance else None

    def refresh(self, material: Material, *, anchor: bool) -> None:
        """Read all windows of `material` in order, so that each has the state at its start.

        Parameters
        ----------
        material : Material
            Windows; memory only ever comes from earlier ones.
        anchor : bool
            Read with the memory's present settings rather than those of the last anchor. False
            brings back exactly the states of that anchor.
        """
        if self.memory is None:
            return
        if anchor:
            self.memory.anchor()
        if self.reset:
            self._table = self.memory.initial_state(len(material.spacings_WT))
        else:
            self._table = self.memory.scan(material.spacings_WT, material.level_WT)

    def extra(self, material: Material, rows: Tensor) -> CarryExtra | None:
        """Return the carried memory as a rollout reads it from the start of windows `rows`."""
        if self.memory is None:
            return None
        assert self._table is not None, "refresh first"
        return CarryExtra(self.memory, self._table.rows(rows), material.level_WT[rows, 0])

    def follow(self, material: Material, *, step: int) -> None:
        """Keep the windows' states close to what the memory has become by training step `step`."""
        if self.memory is None:
            return
        due = step % self.memory.config.refresh == 0
        if due or self._table is None:
            self.refresh(material, anchor=due)


def build_network(
    run: RunConfig,
    config: ModelConfig,
    *,
    carry: CarryConfig | None,
    seed: int,
    rows: RowConfig | None = None,
) -> Network:
    """Build an arm's network with initial weights from `seed`, on the CPU.

    Raises
    ------
    ConfigError
        The arm has no transformer; `carry` is not given exactly for arms with a carried memory, or
        `rows` not exactly for `primes_transformer`.
    """
    require(run.arm not in PHASE_ARMS, "arm", "one with a transformer", run.arm)
    fits = (run.arm in CARRY_ARMS) == (carry is not None)
    slot = run.without_slot
    require(slot is None or slot < config.slots, "without_slot", f"below {config.slots}", slot)
    require(fits, "carry", f"given exactly for arms of {CARRY_ARMS} (this is {run.arm})", carry)
    fits = (run.arm == "primes_transformer") == (rows is not None)
    require(fits, "rows", f"given exactly for arm primes_transformer (this is {run.arm})", rows)
    memory, extra, arm = None, 0, run.arm
    if carry is not None:
        memory, extra = CarryMemory(carry, generator=torch_generator(seed, "carry")), carry.features
        arm = "carry"
    scaler = None
    if rows is not None:
        scaler, extra = RowScaler(rows.columns, rows.sum.anchors), rows.columns
        arm = "primes"
    model = SpacingMDN(
        config,
        arm=arm,
        position=run.position,
        slot_id=run.slot_id,
        extra=extra,
        generator=torch_generator(seed, "model"),
    )
    model.absent = run.without_slot
    return Network(model, memory, reset=run.arm == "carry_reset", scaler=scaler)
