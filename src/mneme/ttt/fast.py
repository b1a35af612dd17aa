"""Fast weights: the matrices that each sample trains for itself while it reads.

Legend: B batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from mneme.ttt.config import InnerConfig
from mneme.ttt.model import TTTTransformer


class FastWeightsError(ValueError):
    """Saved fast weights do not fit the model: one sentence with what to do."""


def matrix_of(linear: nn.Module) -> Tensor:
    """Return the matrix (out, in) that a linear module without bias applies.

    An adapter wrapped around a linear layer is part of it: its effect is read off by applying the
    module to the unit vectors, with gradients to the adapter.
    """
    if type(linear) is nn.Linear:
        return linear.weight
    example = next(linear.parameters())
    unit = torch.eye(linear.in_features, dtype=example.dtype, device=example.device)  # type: ignore[arg-type]
    return linear(unit).T


def _columnwise(w: Tensor) -> Tensor:
    """Return the same matrices with each column in one piece of memory.

    Gradients of x W^T come so, and a step on two layouts takes several times as long. One layout
    everywhere also makes equal weights give equal numbers, bit for bit.
    """
    return w if w.stride(-2) == 1 else w.transpose(-2, -1).contiguous().transpose(-2, -1)


def square_norm(gradients: Mapping[str, Tensor]) -> Tensor:
    """Return each sample's squared norm (B,) over all its tensors (B, out, in)."""
    return torch.stack([g.square().sum((1, 2)) for g in gradients.values()]).sum(0)


class FastWeights(Mapping[str, Tensor]):
    """Name -> each sample's own matrix (B, out, in). Immutable: every step makes a new one."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = {name: _columnwise(w) for name, w in tensors.items()}

    @classmethod
    def init(cls, model: TTTTransformer, batch: int) -> FastWeights:
        """Start `batch` samples from the weights as trained (adapters included), W0.

        The tensors are views of the model's matrices, laid out anew, with gradients to them: what
        they take does not grow with the batch before the first update.
        """
        start = {name: matrix_of(model.get_submodule(name)) for name in model.fast_names()}
        return cls({name: _columnwise(w).expand(batch, -1, -1) for name, w in start.items()})

    def update(
        self, gradients: Mapping[str, Tensor], inner: InnerConfig, *, square_B: Tensor | None = None
    ) -> FastWeights:
        """Take one step of gradient descent, clipped for each sample.

        W - lr g min(1, clip / |g|), where |g| is the norm over all of a sample's fast matrices.

        Parameters
        ----------
        gradients : mapping
            Name -> gradient (B, out, in) of each sample's loss.
        inner : InnerConfig
            Learning rate and clip.
        square_B : Tensor, optional
            `square_norm(gradients)`, where it is known.
        """
        square_B = square_norm(gradients) if square_B is None else square_B
        # max(1, |g| / clip): exactly 1 and flat below the clip, where a root's slope may not exist.
        excess_B = (square_B / inner.clip / inner.clip).clamp(min=1).sqrt()
        step_B11 = (inner.learning_rate / excess_B)[:, None, None].neg()
        return FastWeights({name: (gradients[name] * step_B11).add_(w) for name, w in self.items()})

    def save(self) -> dict[str, Tensor]:
        """Return plain tensors (B, out, in) by name, on CPU, for `load`."""
        plain = torch.contiguous_format
        return {name: w.detach().cpu().clone(memory_format=plain) for name, w in self.items()}

    @classmethod
    def load(cls, tensors: Mapping[str, Tensor], model: TTTTransformer) -> FastWeights:
        """Take up what `save` returned, where the model is.

        Raises
        ------
        FastWeightsError
            Names or shapes belong to another model.
        """
        start = cls.init(model, 1)
        if set(tensors) != set(start):
            raise FastWeightsError(
                f"the saved state has the fast weights {_listed(tensors)}, this model has "
                f"{_listed(start)}: load it with the model that made it"
            )
        for name, w in start.items():
            shape = tuple(tensors[name].shape)
            if len(shape) != 3 or shape[1:] != w.shape[1:]:
                raise FastWeightsError(
                    f"the saved fast weight {name} has shape {shape}, this model needs "
                    f"(B, {w.shape[1]}, {w.shape[2]}): load it with the model that made it"
                )
        if len({len(w) for w in tensors.values()}) > 1:
            raise FastWeightsError(
                "the saved fast weights are of different numbers of samples: save the state again"
            )
        return cls({name: tensors[name].to(w) for name, w in start.items()})

    def reset(self, model: TTTTransformer) -> FastWeights:
        """Return the weights as trained, W0, for as many samples."""
        return FastWeights.init(model, self.batch)

    @property
    def batch(self) -> int:
        """Return the number of samples B."""
        return len(next(iter(self._tensors.values())))

    def row(self, index: int) -> FastWeights:
        """Return one sample's weights, a batch of one."""
        return FastWeights({name: w[index : index + 1] for name, w in self.items()})

    @staticmethod
    def join(rows: Sequence[FastWeights]) -> FastWeights:
        """Return several batches of samples as one."""
        return FastWeights({name: torch.cat([row[name] for row in rows]) for name in rows[0]})

    def detached(self) -> FastWeights:
        """Return the same values outside any graph."""
        return FastWeights({name: w.detach() for name, w in self.items()})

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _listed(names: Mapping[str, Tensor]) -> str:
    return ", ".join(sorted(names)) or "(none)"
