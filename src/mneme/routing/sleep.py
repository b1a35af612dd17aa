"""Active Sleep: while a new domain is learnt, earlier domains are rehearsed against a snapshot.

Each training step of domain k also takes a batch of the training texts of domains 0..k-1 and adds

    lambda * T^2 * KL( snapshot || current )   averaged over its next-token distributions,

both softened by the temperature T. The snapshot is the model as it was when an earlier domain had
been learnt: the backbone with that domain's own adapter. The current model is the backbone with
adapter k. `replay` adds lambda times the plain next-token loss of the same batch instead. Why, and
what it can and cannot protect: docs/decisions/active_sleep.md.

Legend: B batch, N chunks, T position, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mneme.nn.head import head_kl, head_nll


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """Training chunks of earlier domains, ready to be rehearsed."""

    states: Tensor
    """Output of the frozen lower half (N, T, D)."""
    ids: Tensor
    """Tokens (N, T), int64."""
    snapshot: Tensor | None
    """Normed states of the snapshot (N, T, D): all that its distributions depend on besides the
    frozen head, so that no distribution over the vocabulary is ever stored. None for replay."""

    def draw(self, batch: int, *, generator: torch.Generator) -> Rehearsal:
        """Draw `batch` different chunks (all of them when there are fewer), whatever domain."""
        rows = torch.randperm(len(self.ids), generator=generator)[:batch]
        rows = rows.to(self.ids.device)
        snapshot = self.snapshot
        return Rehearsal(
            states=self.states[rows],
            ids=self.ids[rows],
            snapshot=None if snapshot is None else snapshot[rows],
        )


def rehearsal_loss(
    states_BTD: Tensor,
    drawn: Rehearsal,
    weight_VD: Tensor,
    *,
    protect: Literal["sleep", "replay"],
    temperature: float,
) -> Tensor:
    """Loss of the current model on a rehearsed batch, before weighting by lambda.

    Parameters
    ----------
    states_BTD : Tensor
        Normed states of the current model on the batch; gradients flow into them.
    drawn : Rehearsal
        The batch.
    weight_VD : Tensor
        Weight of the frozen head.
    protect : {"sleep", "replay"}
        Divergence from the snapshot, or next-token loss.
    temperature : float
        T of the divergence, > 0; not used by replay.

    Returns
    -------
    Tensor, scalar
        Mean over positions, nats.
    """
    if protect == "replay":
        return head_nll(states_BTD[:, :-1], weight_VD, drawn.ids[:, 1:]).mean()
    assert drawn.snapshot is not None, "sleep needs a snapshot"
    return head_kl(states_BTD, weight_VD, drawn.snapshot, temperature=temperature).mean()


def join(parts: list[Rehearsal]) -> Rehearsal:
    """Pool the chunks of several earlier domains, each beside its own snapshot."""
    snapshots = [part.snapshot for part in parts if part.snapshot is not None]
    assert len(snapshots) in (0, len(parts)), "all parts have a snapshot or none has"
    return Rehearsal(
        states=torch.cat([part.states for part in parts]),
        ids=torch.cat([part.ids for part in parts]),
        snapshot=torch.cat(snapshots) if snapshots else None,
    )
