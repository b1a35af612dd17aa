import dataclasses
import warnings

import numpy as np
import pytest
import torch

from mneme.core import checkpoints
from mneme.core.config import ConfigError
from mneme.core.seeds import torch_generator
from mneme.lattice.automaton import LatticeWarning
from mneme.lattice.config import AdapterConfig, ArmConfig, CellConfig, FitConfig, RecipeConfig
from mneme.lattice.fit import Course, DivergedError, fit
from mneme.lattice.network import Material, build_retriever, control_answers, controlled
from mneme.lattice.retrieval import VectorError, chance, retrieval, spread

CPU = torch.device("cpu")
CELL = {
    "kind": "mlp",
    "shape": (3, 3, 4),
    "surface": "single",
    "channels": 3,
    "hidden": 6,
    "steps": 2,
    "boundary": "walls",
    "dropout": 0.1,
    "checkpointed": False,
}
FIT = {
    "loss": "infonce",
    "temperature": 0.1,
    "reconstruction": 0.3,
    "steps": 12,
    "warmup_steps": 0,
    "batch": 8,
    "learning_rate": 3e-3,
    "core_learning_rate": 1e-2,
    "schedule": "cosine",
    "weight_decay": 0.01,
    "clip": 1.0,
    "eval_every": 5,
}
ARM = {
    "strategy": "hierarchical",
    "start": "random",
    "core": "lattice",
    "lattice_steps": None,
    "answers": "own",
    "vectors": "teacher",
    "trained": True,
    "staged": False,
    "pairs": None,
    "loss": None,
    "steps": None,
    "control_of": None,
}


def recipe(*, cell=(), **changes):
    return RecipeConfig(
        adapter=AdapterConfig(strategy="hierarchical", dropout=0.1, groups=4),
        cell=CellConfig(**(CELL | dict(cell))),
        fit=FitConfig(**(FIT | changes)),
    )


def arm(**changes):
    return ArmConfig(**(ARM | changes))


class KilledError(Exception):
    pass


@pytest.fixture(name="material", scope="module")
def _material():
    return related(0)


def related(seed, *, count=80):
    """Answers share 8 hidden numbers with their questions, inside 24, on a large common mean."""
    generator = torch_generator(seed, "pairs")
    hidden = torch.randn(count, 8, generator=generator)
    ways = torch.randn(2, 8, 24, generator=generator)
    noise = torch.randn(2, count, 24, generator=generator)
    vectors = 10 + hidden @ ways + 0.3 * noise
    return Material(
        questions_ND=vectors[0],
        answers_ND=vectors[1],
        train=torch.arange(60),
        val=torch.arange(60, 80),
    )


def fitted(material, folder, *, seed=0, log=lambda line: None, cell=(), of=None, **changes):
    return fit(
        material,
        of or arm(),
        recipe(cell=cell, **changes),
        seed=seed,
        device=CPU,
        checkpoint=folder / "checkpoint",
        fingerprint="f",
        log=log,
        label="test",
    )


def course_of(material, of=None, **changes):
    settings, of = recipe(**changes), of or arm()
    network = build_retriever(material, of, settings, seed=0)
    return Course(network, material, of, settings.fit, seed=0)


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def scores(made, material, rows):
    found = retrieval(
        *made.network.surfaces(material.questions_ND[rows], material.answers_ND[rows])
    )
    return found["mrr"].mean()


def test_learns_what_is_planted(material, tmp_path):
    steps = {"steps": 60, "learning_rate": 1e-2, "eval_every": 60}
    made = fitted(material, tmp_path / "own", **steps)
    assert scores(made, material, material.val) > 0.6 > 3 * chance(20)["mrr"]


def test_exchanged_answers_fall_to_chance_on_pairs_apart(tmp_path):
    """On validation pairs a state was chosen; on these nothing was."""
    whole = related(0, count=280)
    material = dataclasses.replace(whole, train=torch.arange(60), val=torch.arange(60, 80))
    questions, answers = (side[80:] for side in (whole.questions_ND, whole.answers_ND))
    settings = {"steps": 60, "learning_rate": 1e-2, "eval_every": 20}
    guess, arms = chance(200), {name: arm(answers=name) for name in ("own", "permuted")}
    for trained, of in arms.items():
        made = fitted(material, tmp_path / trained, of=of, **settings)
        for tested, told in arms.items():
            asked = torch.from_numpy(control_answers(answers.numpy(), told, seed=0))
            found = retrieval(*made.network.surfaces(questions, asked))
            for metric in ("mrr", "recall@1", "recall@5"):
                deviation = max(found[metric].std(), guess[metric] ** 0.5 / 2) / 200**0.5
                far = (found[metric].mean() - guess[metric]) / deviation
                if trained == tested == "own":
                    assert far > 10, metric
                else:  # these vectors say nothing of one another before they are trained
                    assert abs(far) < 3.5, (trained, tested, metric)


def test_a_killed_training_ends_in_the_same_bits(material, tmp_path, monkeypatch):
    whole = fitted(material, tmp_path / "whole")
    step = Course.step

    def dies(course, index):
        if index == 7:
            raise KilledError
        return step(course, index)

    with monkeypatch.context() as patch:
        patch.setattr(Course, "step", dies)
        patch.setitem(checkpoints.run_steps.__kwdefaults__, "save_every_s", 0.0)
        with pytest.raises(KilledError):
            fitted(material, tmp_path / "killed")
    lines = []
    resumed = fitted(material, tmp_path / "killed", log=lines.append)
    assert "continuing after step 7/12" in lines[0]
    assert same(resumed.last, whole.last)
    assert same(resumed.network.state_dict(), whole.network.state_dict())
    assert resumed.best_step == whole.best_step


def test_seeds_decide_weights_order_and_dropout_only(material, tmp_path):
    first, again, other = (
        fitted(material, tmp_path / str(i), seed=seed, steps=3) for i, seed in enumerate((0, 0, 1))
    )
    assert same(first.last, again.last)
    assert not same(first.last, other.last)
    state = torch.random.get_rng_state()
    fitted(material, tmp_path / "3", steps=2)
    assert torch.equal(state, torch.random.get_rng_state())


def test_every_epoch_sees_each_pair_once(material):
    course = course_of(material)
    per_epoch = 60 // 8
    rows = [course.rows_of(index) for index in range(2 * per_epoch)]
    for epoch in (rows[:per_epoch], rows[per_epoch:]):
        seen = torch.cat(epoch)
        assert len(seen.unique()) == len(seen) == 56
    assert not torch.equal(rows[0], rows[per_epoch])
    assert torch.equal(rows[3], course_of(material, of=arm(core="off")).rows_of(3))


@pytest.mark.parametrize("core", ["lattice", "mlp", "curve", "frozen"])
def test_every_arm_starts_as_the_adapter_alone(material, tmp_path, core):
    of = {"trained": False}
    off = fitted(material, tmp_path / "off", of=arm(core="off", **of))
    on = fitted(material, tmp_path / "on", of=arm(core=core, **of))
    for one, other in zip(surfaces(off, material), surfaces(on, material), strict=True):
        np.testing.assert_array_equal(one, other)
    assert on.best_step == 0
    assert on.history["points"] == []


def surfaces(made, material):
    return made.network.surfaces(material.questions_ND, material.answers_ND)


@pytest.mark.parametrize("steps", [0, 5, 10, 20])
def test_arms_of_other_depths_take_their_steps(material, steps):
    of = arm(lattice_steps=steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LatticeWarning)
        network = build_retriever(material, of, recipe(), seed=0)
    assert network.processor.core.config.steps == steps


def test_staged_training_freezes_the_adapter(material):
    course = course_of(material, of=arm(staged=True), warmup_steps=4, reconstruction=0.0)
    adapter, core = course.network.processor.adapter, course.network.processor.core

    def copies(module):
        return {name: tensor.clone() for name, tensor in module.state_dict().items()}

    untouched = copies(core)
    records = [course.step(index) for index in range(4)]
    assert all("infonce" not in record for record in records)
    assert same(copies(core), untouched)
    warm = copies(adapter)
    later = [course.step(index) for index in range(4, 8)]
    assert all("infonce" in record for record in later)
    assert same(copies(adapter), warm)
    assert not same(copies(core), untouched)


def test_an_adapter_alone_staged_is_an_autoencoder(material, tmp_path):
    of = arm(core="off", staged=True)
    rough = fitted(material, tmp_path / "1", of=of, steps=2)
    made = fitted(material, tmp_path / "2", of=of, steps=60, learning_rate=1e-2)
    errors = [run.history["points"][-1]["train_reconstruction"] for run in (rough, made)]
    assert errors[1] < 0.6 * errors[0]


def test_the_best_state_is_kept(material, tmp_path):
    made = fitted(material, tmp_path, steps=20, eval_every=4)
    points = {point["step"]: point["val_mrr"] for point in made.history["points"]}
    assert list(points) == [4, 8, 12, 16, 20]
    best = max(points.values())
    assert made.best_step == min(step for step, mrr in points.items() if mrr == best)
    assert scores(made, material, material.val) == pytest.approx(best)
    assert made.history["core_parameters"] == sum(
        p.numel() for p in made.network.processor.core.parameters()
    )


def test_the_sources_loss_keeps_the_last_state_and_not_the_best(material, tmp_path):
    steps = {"steps": 40, "learning_rate": 1e-2, "core_learning_rate": 1e-2, "eval_every": 4}
    made = fitted(material, tmp_path, of=arm(core="off", loss="original"), **steps)
    points = {point["step"]: point["val_mrr"] for point in made.history["points"]}
    assert max(points.values()) > points[40], "else this test cannot tell"
    assert made.best_step == 40
    assert same(made.network.state_dict(), made.last)
    assert "train_infonce" not in made.history["points"][0]


@pytest.mark.parametrize("seed", range(20))
def test_positives_alone_collapse_what_had_not_and_contrast_does_not(seed, tmp_path):
    """Nothing stands behind the adapter: what has collapsed afterwards had not before."""
    settings = {"learning_rate": 1e-2, "schedule": "constant", "eval_every": 100}
    arms = {
        "before": arm(core="off", trained=False),
        "positives": arm(core="off", loss="original", steps=100),
        "contrast": arm(core="off", loss="infonce", steps=100),
    }
    material, found = related(seed), {}
    for name, of in arms.items():
        made = fitted(material, tmp_path / name, of=of, seed=seed, **settings)
        found[name] = spread(*surfaces(made, material))
    assert {name: told.collapsed for name, told in found.items()} == {
        "before": False,
        "positives": True,
        "contrast": False,
    }
    assert found["before"].effective_rank > 2 * found["positives"].effective_rank


def test_an_arm_may_take_its_own_steps(material):
    course = course_of(material, of=arm(steps=30))
    assert course.config == dataclasses.replace(recipe().fit, steps=30)
    assert course_of(material).config == recipe().fit
    with pytest.raises(ConfigError, match="warmup_steps must be 0 to 2, got 4"):
        course_of(material, of=arm(steps=3), warmup_steps=4)
    with pytest.raises(ConfigError, match="steps must be null or at least 1"):
        arm(steps=0)


def test_input_is_standardised_with_training_pairs_only(material):
    network = build_retriever(material, arm(), recipe(), seed=0)
    seen = torch.cat([material.questions_ND[:60], material.answers_ND[:60]])
    made = network.standardise(seen)
    torch.testing.assert_close(made.mean(0), torch.zeros(24), atol=1e-5, rtol=0)
    torch.testing.assert_close(made.std(0, correction=0), torch.ones(24))
    moved = dataclasses.replace(material, answers_ND=material.answers_ND.clone())
    moved.answers_ND[60:] += 100
    again = build_retriever(moved, arm(), recipe(), seed=0)
    assert torch.equal(again.mean_D, network.mean_D)


def test_a_feature_that_never_changes_stays_finite(material):
    still = dataclasses.replace(
        material,
        questions_ND=material.questions_ND.index_fill(1, torch.tensor([3]), 7.0),
        answers_ND=material.answers_ND.index_fill(1, torch.tensor([3]), 7.0),
    )
    network = build_retriever(still, arm(), recipe(), seed=0)
    assert torch.isfinite(network.standardise(still.questions_ND)).all()


def test_reconstruction_comes_back_in_the_embeddings_units(material, tmp_path):
    of = arm(strategy="linear", core="off", staged=True)
    made = fitted(material, tmp_path, of=of, steps=200, learning_rate=2e-2, batch=32)
    rebuilt = made.network.reconstruct(material.questions_ND)
    error = np.abs(rebuilt - material.questions_ND.numpy()).mean()
    assert error < 0.3 * material.questions_ND.std(0).mean()


def test_controls_change_what_they_say(material):
    fewer = controlled(material, arm(pairs=10), seed=0)
    more = controlled(material, arm(pairs=20), seed=0)
    assert len(fewer.train) == 10
    assert set(fewer.train.tolist()) < set(more.train.tolist()) < set(range(60))
    noise = controlled(material, arm(vectors="noise"), seed=0)
    assert torch.equal(noise.answers_ND, material.answers_ND)
    torch.testing.assert_close(
        noise.questions_ND.mean(0), material.questions_ND.mean(0), atol=2.5, rtol=0
    )
    permuted = controlled(material, arm(answers="permuted"), seed=0)
    for rows in (material.train, material.val):
        moved = permuted.answers_ND[rows]
        assert not torch.equal(moved, material.answers_ND[rows])
        assert torch.equal(moved.sort(0).values, material.answers_ND[rows].sort(0).values)
    answers = np.arange(40.0).reshape(20, 2)
    assert control_answers(answers, arm(), seed=0) is answers
    exchanged = control_answers(answers, arm(answers="permuted"), seed=0)
    assert sorted(exchanged[:, 0]) == list(answers[:, 0]) != list(exchanged[:, 0])
    taught = arm(answers="permuted_training")  # the same wrong pairs, and the right ones to test on
    assert torch.equal(controlled(material, taught, seed=0).answers_ND, permuted.answers_ND)
    assert control_answers(answers, taught, seed=0) is answers


def test_one_sentence_for_what_cannot_be_trained(material, tmp_path):
    with pytest.raises(VectorError, match="60 training pairs are fewer than a batch of 64"):
        fitted(material, tmp_path, batch=64)
    lonely = dataclasses.replace(material, val=torch.arange(60, 61))
    with pytest.raises(VectorError, match="1 validation pairs cannot rank anything"):
        fitted(lonely, tmp_path)
    with pytest.raises(VectorError, match="61 are asked for and 60 train"):
        fitted(material, tmp_path, of=arm(pairs=61))
    with pytest.raises(DivergedError, match="lower learning_rate"):
        fitted(material, tmp_path, learning_rate=1e30, core_learning_rate=1e30, clip=1e30)
    bad = material.questions_ND.clone()
    bad[3, 0] = torch.nan
    with pytest.raises(VectorError, match="questions: 1 of 80 embeddings hold NaN"):
        dataclasses.replace(material, questions_ND=bad)
    with pytest.raises(VectorError, match="paired embeddings"):
        dataclasses.replace(material, questions_ND=bad[:, :5])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"batch": 1}, "batch"),
        ({"warmup_steps": 12}, "warmup_steps"),
        ({"core_learning_rate": 0.0}, "core_learning_rate"),
    ],
)
def test_settings_out_of_range(changes, key):
    with pytest.raises(ConfigError, match=key):
        recipe(**changes)


def test_depth_belongs_to_lattices():
    with pytest.raises(ConfigError, match="lattice_steps must be null for core mlp"):
        arm(core="mlp", lattice_steps=5)
    with pytest.raises(ConfigError, match="pairs"):
        arm(pairs=1)


def test_a_surface_wider_than_the_vectors_is_refused_before_any_training(material, tmp_path):
    sentence = "an adapter to 25 numbers needs vectors of at least as many, these have 24"
    with pytest.raises(VectorError, match=sentence):
        fitted(material, tmp_path, cell={"shape": (3, 5, 5)})
    assert not list(tmp_path.iterdir())
