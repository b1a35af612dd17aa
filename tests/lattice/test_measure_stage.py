"""Everything that stands on one teacher: opened again as trained, controls on the test pairs."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch

from mneme.lattice.automaton import LatticeWarning
from mneme.lattice.baseline_runs import BASELINES
from mneme.lattice.config import AdapterConfig, ArmConfig, CellConfig, FitConfig, RecipeConfig
from mneme.lattice.material import training_material
from mneme.lattice.measure import EIGHT_METRICS, read_eight
from mneme.lattice.measure_stage import WeightsError, held_out, measured_teacher, opened
from mneme.lattice.network import build_retriever
from mneme.lattice.retrieval import chance, retrieval
from mneme.lattice.stages_measure import PLANTED, MeasureStageConfig, ReadConfig

CPU = torch.device("cpu")
WIDTH, SEEDS = 16, (0, 3)
SIZES = {"train": 60, "val": 9, "test": 40}
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
        steps=2,
        warmup_steps=0,
        batch=8,
        learning_rate=1e-3,
        core_learning_rate=1e-2,
        schedule="cosine",
        weight_decay=0.0,
        clip=1.0,
        eval_every=1,
    ),
)


def arm(**changes):
    plain = {"strategy": "hierarchical", "start": "pca", "core": "off", "lattice_steps": None}
    shown = {"answers": "own", "vectors": "teacher", "trained": False, "staged": False}
    rest = dict.fromkeys(("pairs", "loss", "steps", "control_of"))
    return ArmConfig(**{**plain, **shown, **rest, **changes})


ARMS = {
    "off": arm(),
    "on": arm(core="lattice"),
    "steps_0": arm(core="lattice", lattice_steps=0),
    "permuted": arm(answers="permuted"),
    "noise": arm(vectors="noise"),
}
CONFIG = MeasureStageConfig(
    teacher="synthetic",
    recipe=RECIPE,
    arms=ARMS,
    seeds=SEEDS,
    read=ReadConfig(saturation=1.2, length=0.75, timings=1, shown=6),
)


@pytest.fixture(scope="module")
def vectors():
    generator = np.random.default_rng(0)
    found = {}
    for split, count in SIZES.items():
        questions = generator.normal(size=(count, WIDTH))
        answers = questions + 0.3 * generator.normal(size=(count, WIDTH))
        found[f"{split}_questions"] = questions.astype(np.float32)
        found[f"{split}_answers"] = answers.astype(np.float32)
    signs = np.where(np.arange(WIDTH) % 2, -1, 1).astype(np.float32)
    questions = found["test_questions"][:8]
    return {**found, "eight_questions": questions, "eight_answers": signs * questions}


@pytest.fixture(scope="module")
def texts():
    return {
        split: [["g", f"what is thing{i}", f"thing{i} is {split}"] for i in range(count)]
        for split, count in SIZES.items()
    }


@pytest.fixture(scope="module")
def states(vectors):
    material = training_material(vectors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LatticeWarning)
        return {
            name: [network_of(name, material, seed).state_dict() for seed in SEEDS] for name in ARMS
        }


def network_of(name, material, seed):
    """Return an arm's network, a lattice with an effect as after training."""
    network = build_retriever(material, ARMS[name], RECIPE, seed=seed)
    if ARMS[name].core == "lattice":
        torch.nn.init.constant_(network.processor.core.alpha, 0.5)
    return network


@pytest.fixture(scope="module")
def measured(vectors, texts, states):
    return measured_teacher(CONFIG, vectors, texts, states, device=CPU, log=lambda line: None)


def score(run, metric="recall@1"):
    return np.mean([reading.scores[metric].mean() for reading in run.readings])


def test_baselines_come_first_and_arms_have_all_seeds(measured):
    assert list(measured) == [*BASELINES, *ARMS]
    assert measured["off"].seeds == measured["projection"].seeds == SEEDS
    assert measured["pca"].seeds == (None,)
    assert score(measured["tfidf"]) == score(measured["bm25"]) == 1
    assert measured["raw"].numbers == WIDTH
    assert measured["off"].numbers == measured["pca"].numbers == 12
    assert measured["pca"].parameters == WIDTH + 2 * WIDTH * 12
    assert measured["pca"].encode_s > 0 < measured["off"].encode_s


def test_raw_vectors_are_compared_as_they_are(measured, vectors):
    own = retrieval(vectors["test_questions"], vectors["test_answers"])
    for metric, values in own.items():
        assert np.array_equal(measured["raw"].readings[0].scores[metric], values)
    assert score(measured["raw"]) > 0.8


def test_an_arm_is_read_with_its_own_weights(measured, vectors, states):
    material = training_material(vectors)
    pairs = [torch.from_numpy(vectors[f"test_{side}"]) for side in ("questions", "answers")]
    network = network_of("on", material, SEEDS[1])
    expected = retrieval(*network.surfaces(*pairs))
    for metric, values in expected.items():
        assert np.array_equal(measured["on"].readings[1].scores[metric], values)
    other = opened(states["on"][0], material, ARMS["on"], CONFIG)
    assert not np.array_equal(other.surfaces(*pairs)[0], network.surfaces(*pairs)[0])
    # before training an arm is the principal components of standardised vectors
    assert measured["off"].readings[0].values["reconstruction_r2"] == pytest.approx(
        measured["pca"].readings[0].values["reconstruction_r2"], abs=0.1
    )


def test_controls_are_controls_on_the_test_pairs(measured, vectors):
    guess = chance(SIZES["test"])["recall@1"]
    for name in ("permuted", "noise"):
        assert score(measured[name]) < guess + 0.1 < score(measured["off"])
    questions, answers = held_out(vectors, ARMS["permuted"], seed=0)
    assert np.array_equal(questions, vectors["test_questions"])
    assert not np.array_equal(answers, vectors["test_answers"])
    assert np.array_equal(np.sort(answers, 0), np.sort(vectors["test_answers"], 0))
    noise, answers = held_out(vectors, ARMS["noise"], seed=0)
    assert noise.shape == questions.shape
    assert np.abs(np.corrcoef(noise.ravel(), questions.ravel())[0, 1]) < 0.2
    assert np.array_equal(answers, vectors["test_answers"])


def test_the_eight_pairs_are_read_in_every_representation(measured, vectors, states):
    for name, run in measured.items():
        lengths = {name: len(values) for name, values in run.readings[0].eight.items()}
        assert lengths == ({} if run.kind == "words" else dict.fromkeys(EIGHT_METRICS, 8))
    questions, answers = (vectors[f"eight_{side}"] for side in ("questions", "answers"))
    raw = read_eight(questions, answers)
    assert np.array_equal(measured["raw"].readings[0].eight["eight_related"], raw["eight_related"])
    material = training_material(vectors)
    network = network_of("on", material, SEEDS[1])
    own = read_eight(*network.surfaces(torch.from_numpy(questions), torch.from_numpy(answers)))
    for metric, values in own.items():
        assert np.array_equal(measured["on"].readings[1].eight[metric], values)
    # what exchanged answers were trained on changes nothing here: the eight are never exchanged
    for metric in EIGHT_METRICS:
        one, other = (measured[name].readings[0].eight[metric] for name in ("off", "permuted"))
        assert np.array_equal(one, other)
        assert not np.array_equal(one, measured["noise"].readings[0].eight[metric])


def test_pairs_without_texts_or_eight_are_measured_too(vectors, states):
    few = {name: array for name, array in vectors.items() if not name.startswith("eight")}
    arms = {"off": ARMS["off"]}
    config = dataclasses.replace(CONFIG, arms=arms)
    runs = measured_teacher(config, few, None, states, device=CPU, log=lambda line: None)
    assert list(runs) == [name for name in BASELINES if name not in ("tfidf", "bm25")] + ["off"]
    assert all(run.readings[0].eight == {} for run in runs.values())


def test_only_a_lattice_has_a_state_to_show(measured):
    assert measured["off"].states is None
    assert measured["on"].states.shape == (3, 3, 4)
    assert measured["steps_0"].states.shape == (1, 3, 4)
    shown = measured["on"].states
    assert (shown[0, 0] > 0).all()
    assert (shown[0, 1:] == 0).all(), "the surface comes in at z = 0"
    assert np.ptp(shown[1, 2]) == 0 < np.ptp(shown[2, 2]), "and moves one layer a step"
    assert measured["on"].core_parameters > 0 == measured["off"].core_parameters


def test_weights_of_another_network_are_refused(vectors, states):
    material = training_material(vectors)
    with pytest.raises(WeightsError, match=r"do not fit the recipe .*delete the arm's folder"):
        opened(states["on"][0], material, ARMS["off"], CONFIG)


def test_the_figure_knows_every_baseline_in_this_order():
    from mneme.report.lattice import BASELINES as DRAWN
    from mneme.report.lattice import CONTROL

    assert DRAWN == BASELINES
    assert CONTROL == PLANTED
