"""Held-out loss of the mixed model: plain cross-entropy chunk by chunk, and taken up again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mneme.core.parts import Parts
from mneme.core.seeds import torch_generator
from mneme.routing.mixed_loss import KINDS, mixed_losses
from mneme.routing.model import TemporalLora

# PEFT 0.21 calls an alias that transformers 5.23 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


class Fixed(nn.Module):
    """Stand-in mixer: the same uneven logits for every token."""

    def forward(self, ids_BT, states_BTD, *, labels_BT=None, carry=None):
        logits_K = torch.tensor([1.5, -0.5])
        return logits_K.expand(*ids_BT.shape, -1), None


@pytest.fixture
def model(tiny_llama, pair):
    return TemporalLora(tiny_llama, pair, mixer=Fixed(), gate_layer=2)


@pytest.fixture
def held_out():
    def ids(seed, count):
        return torch.randint(0, 128, (count, 9), generator=torch_generator(seed, "ids")).numpy()

    return {"0": ids(0, 5), "1": ids(1, 3)}


def parts_in(folder):
    return Parts(folder / "losses.json", fingerprint="f")


@torch.inference_mode()
def slow_loss(model, row_T, gates_K):
    ids = torch.as_tensor(row_T)[None]
    log_p = model(ids, gates_BTK=gates_K.expand(1, ids.shape[1], -1)).logits[0].log_softmax(-1)
    terms = [-log_p[t, ids[0, t + 1]].item() for t in range(ids.shape[1] - 1)]
    return sum(terms) / len(terms)


def test_losses_are_cross_entropies_under_the_mixers_and_under_uniform_gates(
    model, held_out, tmp_path
):
    found = mixed_losses(model, held_out, KINDS, batch=2, parts=parts_in(tmp_path))
    assert list(found) == ["mixer", "uniform"]
    gates = {"mixer": torch.tensor([1.5, -0.5]).softmax(-1), "uniform": torch.full((2,), 0.5)}
    for kind, losses in found.items():
        for domain, rows in held_out.items():
            expected = [slow_loss(model, row, gates[kind]) for row in rows]
            assert losses[domain] == pytest.approx(expected, abs=1e-5)
    assert found["mixer"]["0"] != pytest.approx(found["uniform"]["0"], abs=1e-4)


def test_a_stopped_reading_goes_on_where_it_was(model, held_out, tmp_path):
    whole = mixed_losses(model, held_out, KINDS, batch=2, parts=parts_in(tmp_path / "whole"))
    read = []

    def count(indices):
        for index in indices:
            read.append(index)
            yield index

    def stop(indices):
        for index in indices:
            if index == 3:
                raise KeyboardInterrupt
            yield index

    with pytest.raises(KeyboardInterrupt):
        mixed_losses(model, held_out, KINDS, batch=2, parts=parts_in(tmp_path), progress=stop)
    assert parts_in(tmp_path).count() == 3
    passes = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    again = mixed_losses(model, held_out, KINDS, batch=2, parts=parts_in(tmp_path), progress=count)
    assert again == whole
    assert (len(read), len(passes)) == (10, 7)
