"""Test pairs train, fit and choose nothing; validation pairs only choose."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mneme.core.seeds import torch_generator
from mneme.lattice.baseline_runs import WHITENINGS, fitted_codecs
from mneme.lattice.baselines import fit_scaled_pca
from mneme.lattice.config import AdapterConfig, ArmConfig, CellConfig, FitConfig, RecipeConfig
from mneme.lattice.fit import fit
from mneme.lattice.material import training_material
from mneme.lattice.network import build_retriever, controlled

WIDTH, SURFACE = 16, 12
SIZES = {"train": 60, "val": 40, "test": 50}
RECIPE = RecipeConfig(
    adapter=AdapterConfig(strategy="hierarchical", dropout=0.0, groups=4),
    cell=CellConfig(
        kind="mlp",
        shape=(3, 3, 4),
        surface="single",
        channels=2,
        hidden=3,
        steps=2,
        boundary="walls",
        dropout=0.0,
        checkpointed=False,
    ),
    fit=FitConfig(
        loss="infonce",
        temperature=0.1,
        reconstruction=1.0,
        steps=6,
        warmup_steps=0,
        batch=8,
        learning_rate=3e-3,
        core_learning_rate=1e-2,
        schedule="constant",
        weight_decay=0.0,
        clip=1.0,
        eval_every=1,
    ),
)
ARM = ArmConfig(
    strategy="hierarchical",
    start="pca",
    core="lattice",
    lattice_steps=None,
    answers="own",
    vectors="teacher",
    trained=True,
    staged=False,
    pairs=None,
    loss=None,
    steps=None,
    control_of=None,
)


def pairs(count, *, noisy, seed):
    """Draw pairs that differ in components of large or of small variance.

    Where the large ones differ, components divided by their size find more answers; where the small
    ones do, fewer.
    """
    generator = np.random.default_rng(seed)
    sizes = np.geomspace(10, 0.1, WIDTH)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(WIDTH, WIDTH)))[0]
    held = generator.normal(size=(count, WIDTH))
    apart = np.full(WIDTH, 0.1)
    apart[slice(0, 4) if noisy == "large" else slice(6, None)] = 3.0
    other = held + apart * generator.normal(size=held.shape)
    return [((side * sizes) @ turn).astype(np.float32) for side in (held, other)]


def drawn(*, val="small", test="large", seed=0):
    vectors = {}
    for place, (split, noisy) in enumerate({"train": "small", "val": val, "test": test}.items()):
        both = pairs(SIZES[split], noisy=noisy, seed=100 * seed + place)
        vectors |= dict(zip((f"{split}_questions", f"{split}_answers"), both, strict=True))
    return vectors


def spoilt(vectors, split):
    """Return the same with nothing but NaN in one split."""
    return {
        name: np.full_like(array, np.nan) if name.startswith(split) else array
        for name, array in vectors.items()
    }


def fitted(vectors, folder):
    return fit(
        training_material(vectors),
        ARM,
        RECIPE,
        seed=0,
        device=torch.device("cpu"),
        checkpoint=folder / "checkpoint",
        fingerprint="f",
        log=lambda line: None,
        label="test",
    )


def started(vectors):
    """Return the initial weights of an arm that starts as principal components."""
    network = build_retriever(training_material(vectors), ARM, RECIPE, seed=0)
    return network.state_dict()


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_what_trains_and_selects_knows_no_test_pair(tmp_path):
    vectors = drawn()
    bare = {name: array for name, array in vectors.items() if not name.startswith("test")}
    told, blind = (training_material(one) for one in (spoilt(vectors, "test"), bare))
    for name in ("questions_ND", "answers_ND", "train", "val"):
        assert torch.equal(getattr(told, name), getattr(blind, name))
    rows = {"train": told.train, "val": told.val}
    for split, of in rows.items():
        for side, held in (("questions", told.questions_ND), ("answers", told.answers_ND)):
            assert np.array_equal(held[of].numpy(), vectors[f"{split}_{side}"])
    assert len(told.questions_ND) == SIZES["train"] + SIZES["val"]
    assert_same(started(spoilt(vectors, "test")), started(vectors))
    first = fitted(vectors, tmp_path / "1")
    again = fitted(spoilt(vectors, "test"), tmp_path / "2")
    assert_same(first.last, again.last)
    assert_same(first.network.state_dict(), again.network.state_dict())


def test_codecs_are_fitted_and_chosen_without_the_test_pairs():
    vectors = drawn()
    made = fitted_codecs(vectors, surface=SURFACE)
    blind = fitted_codecs(spoilt(vectors, "test"), surface=SURFACE)
    assert list(made) == ["pca", "pca_standardised", "pca_whitened", "truncation"]
    for name, codec in made.items():
        for part in ("mean_D", "encode_DS", "decode_SD"):
            assert np.array_equal(getattr(codec, part), getattr(blind[name], part)), (name, part)


@pytest.mark.parametrize(("noisy", "power"), [("small", 0.5), ("large", 1.0)])
def test_validation_pairs_choose_the_whitening_and_nothing_else(noisy, power):
    opposite = {"small": "large", "large": "small"}[noisy]
    vectors = drawn(val=noisy, test=opposite)
    assert power in WHITENINGS
    made = fitted_codecs(vectors, surface=SURFACE)
    train = np.concatenate([vectors["train_questions"], vectors["train_answers"]]).astype(float)
    wanted = fit_scaled_pca(train, SURFACE, whitening=power)
    assert np.array_equal(made["pca_whitened"].encode_DS, wanted.encode_DS)
    others = fitted_codecs(drawn(val=opposite, test=noisy), surface=SURFACE)
    assert not np.array_equal(others["pca_whitened"].encode_DS, wanted.encode_DS)
    for name in ("pca", "pca_standardised", "truncation"):
        assert np.array_equal(made[name].encode_DS, others[name].encode_DS), name


def test_an_adapter_starts_as_components_of_training_vectors_alone():
    vectors = drawn()
    moved = {**vectors, **dict(zip(("val_questions", "val_answers"), shifted(), strict=True))}
    assert_same(started(vectors), started(moved))
    other = {**vectors, "train_questions": vectors["train_questions"][::-1] * 2}
    weights = started(other)
    assert any(not torch.equal(tensor, weights[name]) for name, tensor in started(vectors).items())


def shifted():
    return [5 + 3 * side for side in pairs(SIZES["val"], noisy="large", seed=77)]


def test_validation_pairs_select_a_state_and_train_none(tmp_path):
    """Answers of half a split exchanged: readings differ, every trained weight is the same."""
    vectors = drawn()
    order = torch.randperm(SIZES["val"], generator=torch_generator(0, "val")).numpy()
    other = {**vectors, "val_answers": vectors["val_answers"][order]}
    first, again = fitted(vectors, tmp_path / "1"), fitted(other, tmp_path / "2")
    assert_same(first.last, again.last)
    read = [[p["val_mrr"] for p in one.history["points"]] for one in (first, again)]
    losses = [[p["train_loss"] for p in one.history["points"]] for one in (first, again)]
    assert read[0] != read[1]
    assert losses[0] == losses[1]
    for one, curve in zip((first, again), read, strict=True):
        assert one.best_step == 1 + int(np.argmax(curve)), "the best reading is what is kept"


def test_fewer_pairs_are_still_training_pairs():
    vectors = drawn()
    few = dataclasses.replace(ARM, pairs=20)
    material = controlled(training_material(vectors), few, seed=0)
    assert set(material.train.tolist()) < set(range(SIZES["train"]))
    assert torch.equal(material.val, torch.arange(60, 100))
