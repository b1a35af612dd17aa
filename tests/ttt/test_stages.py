"""Stages that open trained runs again: right weights, right files by name, equal draws."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from mneme.core.config import ConfigError, build
from mneme.core.seeds import numpy_generator, torch_generator
from mneme.stats.rows import Row
from mneme.ttt.adapter_config import AdapterRunConfig
from mneme.ttt.adapter_gather import adapter_runs
from mneme.ttt.codec import Codec, byte_tokenizer
from mneme.ttt.config import Arm, InnerConfig, RecipeConfig, RunConfig, TrainingConfig
from mneme.ttt.context import InnerReader, read_set
from mneme.ttt.context_config import ContextConfig
from mneme.ttt.context_documents import markov_documents
from mneme.ttt.context_gather import bytes_per_token, measured_runs
from mneme.ttt.context_report import context_runs
from mneme.ttt.context_stages import read_sets
from mneme.ttt.corpus_config import CorpusConfig, FewStatesConfig, MarkovConfig
from mneme.ttt.fit import fit
from mneme.ttt.grid import measure_grid
from mneme.ttt.grid_config import GridConfig
from mneme.ttt.grid_report import grid_runs, grid_table
from mneme.ttt.grid_stages import PROMPTS, measured_nets
from mneme.ttt.grid_texts import CONTROLS, contexts_of, grid_texts
from mneme.ttt.material import markov_material
from mneme.ttt.model import build_model
from mneme.ttt.stages import (
    ContextStageConfig,
    GridStageConfig,
    MeasureStageConfig,
    TrainedConfig,
)
from mneme.ttt.tinylora import adapt, load_adapter, save_adapter
from mneme.ttt.trained import WeightsError, measured_model, trained_model, untrained_model

NONE = FewStatesConfig(steps=0, symbols=2, concentration=0.1, tokens=8)
CPU = torch.device("cpu")
SEEDS = (3, 1)
SYMBOLS = 7
CHAINS = MarkovConfig(symbols=SYMBOLS, concentration=0.3, seed=0, test_seed=1, begin=NONE)
TEXT = CorpusConfig(
    tokenizer="bytes",
    vocabulary=None,
    sources={"shakespeare": 0.5, "chitchat": 0.5},
    train_share=0.6,
    validation_share=0.2,
    test_part="last",
    min_turns=2,
    drop_offensive=False,
    limit=None,
    harmless=(),
    seed=0,
)
TRAINING = TrainingConfig(
    steps=1,
    batch=2,
    micro_batch=2,
    tokens=9,
    learning_rate=1e-30,  # a step that moves no float32 weight
    warmup=0,
    weight_decay=0.0,
    clip=1.0,
    objective="all_chunks",
    adapt_share=0.2,
    inner_warmup=0,
    inner_start=1.0,
    checkpointed=False,
    eval_every=1,
    eval_documents=1,
)


@pytest.fixture(scope="module")
def recipe_of(config_of):
    def made(corpus="markov", *, chunk=4, **changes):
        inner = InnerConfig(chunk=chunk, learning_rate=1.0, clip=1.0)
        model = config_of(**{"blocks": 2, "ttt_blocks": 1, **changes})
        return RecipeConfig(corpus=corpus, model=model, inner=inner, training=TRAINING)

    return made


def trained_of(name, recipe, *, recipe_name, arm: Arm = "second"):
    drawn = recipe.corpus == "markov"
    return TrainedConfig(
        name=name,
        arm=arm,
        recipe_name=recipe_name,
        recipe=recipe,
        corpus=None if drawn else TEXT,
        markov=CHAINS if drawn else None,
        seeds=SEEDS,
    )


def state_of(config, arm, *purpose, vocabulary=SYMBOLS):
    """Weights as a training could have left them, no two purposes alike."""
    generator = torch_generator(0, *purpose)
    return build_model(config, arm, vocabulary=vocabulary, generator=generator).state_dict()


def same_weights(model, state):
    mine = model.state_dict()
    return mine.keys() == state.keys() and all(torch.equal(mine[k], state[k]) for k in state)


# --- trained networks opened again


def test_a_network_is_opened_with_the_weights_it_is_given(config_of):
    config = config_of()
    state = state_of(config, "second", "a")
    model = trained_model(config, "second", state, vocabulary=SYMBOLS, device=CPU)
    assert same_weights(model, state)
    assert not same_weights(model, state_of(config, "second", "b"))
    assert (model.config, model.arm, model.training) == (config, "second", False)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_dynamic_evaluation_opens_the_weights_of_a_sliding_window(config_of, tokens_of):
    config = config_of()
    place = {"vocabulary": SYMBOLS, "device": CPU}
    state = state_of(config, "sliding", "a")
    tokens_BT = tokens_of(2, 12)
    dynamic, sliding, full = (
        trained_model(config, arm, state, **place) for arm in ("dynamic", "sliding", "full")
    )
    assert (dynamic.arm, same_weights(dynamic, state)) == ("dynamic", True)
    logits = sliding(tokens_BT)
    assert torch.equal(dynamic(tokens_BT), logits)
    assert not torch.allclose(full(tokens_BT), logits)  # a window, not all that was read


@pytest.mark.parametrize(
    ("arm", "changes", "vocabulary"),
    [
        ("second", {"width": 12}, SYMBOLS),
        ("second", {"blocks": 4}, SYMBOLS),
        ("second", {"blocks": 2}, SYMBOLS),
        ("second", {"ttt_blocks": 1}, SYMBOLS),
        ("second", {"tied": True}, SYMBOLS),
        ("second", {"qk_norm": False}, SYMBOLS),
        ("second", {}, SYMBOLS + 1),
        ("sliding", {}, SYMBOLS),
        ("dynamic", {}, SYMBOLS),
        ("full", {}, SYMBOLS),
    ],
)
def test_weights_of_another_network_are_refused_in_one_sentence(
    config_of, arm, changes, vocabulary
):
    state = state_of(config_of(), "second", "a")
    with pytest.raises(WeightsError) as caught:
        trained_model(config_of(**changes), arm, state, vocabulary=vocabulary, device=CPU)
    message = str(caught.value)
    assert message.startswith("the weights do not fit the recipe (")
    assert message.endswith("): delete the run's folder and run snakemake")
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize("arm", ["second", "sliding"])
def test_an_untrained_network_is_the_one_that_training_began_with(recipe_of, tmp_path, arm):
    recipe = recipe_of()
    begun = {}
    for seed in SEEDS:
        fitted = fit(
            markov_material(CHAINS),
            recipe,
            arm,
            vocabulary=SYMBOLS,
            seed=seed,
            device=CPU,
            checkpoint=tmp_path / str(seed),
            fingerprint="f",
            log=lambda line: None,
            label="x",
        )
        begun[seed] = fitted.model.state_dict()
    for seed in SEEDS:
        model = untrained_model(recipe.model, arm, vocabulary=SYMBOLS, seed=seed, device=CPU)
        assert not model.training
        assert [other for other in SEEDS if same_weights(model, begun[other])] == [seed]


def test_a_run_that_was_never_trained_is_measured_as_its_training_began(config_of):
    config, place = config_of(), {"vocabulary": SYMBOLS, "device": CPU}
    begun = untrained_model(config, "second", seed=1, **place).state_dict()
    model = measured_model(config, "untrained", None, seed=1, **place)
    assert (model.arm, same_weights(model, begun)) == ("untrained", True)
    assert not same_weights(measured_model(config, "untrained", None, seed=3, **place), begun)
    trained = state_of(config, "second", "a")
    assert same_weights(measured_model(config, "second", trained, seed=1, **place), trained)


def test_material_is_that_of_the_settings(recipe_of):
    chains = trained_of("a", recipe_of(), recipe_name="markov")
    assert chains.chains() == markov_material(CHAINS)
    with pytest.raises(AssertionError):
        chains.text({})


# --- long context: what one run reads

SET = {
    "corpus": "markov",
    "kind": "chain",
    "documents": 3,
    "tokens": 23,
    "least_tokens": 23,
    "adapt_tokens": 6,
    "counted_tokens": 3,
    "contexts": [],
    "edges": [1, 4, 24],
}
CONTEXT = {
    "sets": {"chains": SET, "few": {**SET, "documents": 2, "tokens": 20, "least_tokens": 20}},
    "kinds": ["own", "other", "none"],
    "batch": 2,
    "resamples": 100,
    "untrained_kinds": ["own", "none"],
    "dynamic": {
        **{
            "chunk": 4,
            "clip": 1.0,
            "learning_rates": [0.1],
            "tokens": 16,
            "documents": 2,
            "batch": 2,
        },
        "kinds": ["own", "none"],
    },
}
CONTEXT["sets"]["few"]["edges"] = [1, 21]


def context_of(**sets):
    return build(ContextConfig, {**CONTEXT, "sets": sets or CONTEXT["sets"]}, where="context")


@pytest.mark.parametrize("arm", ["second", "sliding", "dynamic", "untrained"])
def test_a_run_reads_every_set_of_its_corpus(recipe_of, arm):
    recipe, lines = recipe_of(), []
    base = vars(trained_of("alpha", recipe, recipe_name="markov", arm=arm))
    config = MeasureStageConfig(**base, context=context_of())
    weights = "sliding" if arm == "dynamic" else arm
    state = None if arm == "untrained" else state_of(recipe.model, weights, "a")
    model = measured_model(recipe.model, arm, state, vocabulary=SYMBOLS, seed=0, device=CPU)
    material = markov_material(CHAINS)
    arrays, facts = read_sets(model, config, material, None, device=CPU, log=lines.append)
    assert {key.partition("/")[0] for key in arrays} == {"chains", "few"}
    assert {name: arrays[f"{name}/nll_NT"].shape for name in ("chains", "few")} == {
        "chains": (3, 23),
        "few": (2, 20),
    }
    losses = {key.partition("/loss_")[2] for key in arrays if "/loss_" in key}
    expected = {
        "second": {"own_M", "other_M", "none_M"},
        "sliding": {"none_M"},
        "dynamic": {"own_M", "none_M"},
        "untrained": {"own_M", "none_M"},
    }
    assert losses == expected[arm]
    assert set(facts) == ({"dynamic"} if arm == "dynamic" else set())
    mean = arrays["chains/nll_NT"].mean()
    assert lines[0] == f"alpha on chains: 3 documents, nll {mean:.4f}"
    assert len(lines) == 2
    if arm != "dynamic":
        one = config.context.sets["few"]
        field = recipe.model.receptive_field
        expected = read_set(
            InnerReader(model, recipe.inner, 2),
            markov_documents(material, one, receptive_field=field),
            one,
            arm=arm,
            kinds={"second": config.context.kinds, "sliding": ("none",)}.get(arm, ("own", "none")),
            every_kind=config.context.kinds,
            receptive_field=field,
            device=CPU,
        )
        for key, value in expected.items():
            np.testing.assert_array_equal(arrays[f"few/{key}"], value)


# --- long context: what all runs left


def runs_of(**runs):
    return {
        name: RunConfig(recipe=recipe, arm=arm, steps_factor=1.0, control_of=control)
        for name, (recipe, arm, control) in runs.items()
    }


@pytest.fixture(scope="module")
def context_stage(recipe_of):
    """Two recipes, both with a sliding run; `mike` has the weights of `zulu`, `xray` nobody's."""
    runs = runs_of(
        alpha=("far", "sliding", None),
        bravo=("near", "second", None),
        mike=("near", "dynamic", "zulu"),
        xray=("near", "untrained", "bravo"),
        zulu=("near", "sliding", "bravo"),
    )
    recipes = {"near": recipe_of(), "far": recipe_of(window=6)}
    tried = {"near": 5, "far": 6}
    told = {"runs": runs, "recipes": recipes, "context": context_of(), "tried": tried}
    return ContextStageConfig(**told, seeds=SEEDS)


def history_of(number):
    costs = {"parameters": number, "tokens": number + 1, "seconds": number / 2, "tokens_per_s": 5.0}
    return {**costs, "points": [], "code": "c", "name": "n", "seed": number}


LEFT = {"zulu": 10, "mike": 20, "bravo": 30, "alpha": 40, "xray": 50}
"""Runs in another order than the settings have them -> a number that marks what they left."""
LOSSES = {n: [{"mark": np.array(k + place)} for place in range(2)] for n, k in LEFT.items()}
MADE = {name: number for name, number in LEFT.items() if name not in ("mike", "xray")}
HISTORIES = {name: [history_of(k), history_of(k + 1)] for name, k in MADE.items()}
RATES = [{"name": "mike", "dynamic": {"learning_rate": rate}} for rate in (0.1, 0.2)]
TOLD = {n: RATES if n == "mike" else [{"code": "c", "name": n}] * 2 for n in LEFT}


def test_every_run_gets_its_own_files_seed_by_seed(context_stage):
    found = measured_runs(context_stage, LOSSES, TOLD, HISTORIES)
    assert list(found) == ["alpha", "bravo", "mike", "xray", "zulu"]
    for name, run in found.items():
        told = context_stage.runs[name]
        assert (run.arm, run.recipe, run.control_of) == (told.arm, told.recipe, told.control_of)
        assert (run.seeds, run.corpus) == (SEEDS, "markov")
        assert run.receptive_field == {"near": 6, "far": 10}[told.recipe]
        assert [int(arrays["mark"]) for arrays in run.readings] == [LEFT[name], LEFT[name] + 1]
        trained = {"mike": "zulu", "xray": None}.get(name, name)
        keys = ("parameters", "tokens", "seconds", "tokens_per_s")
        made = HISTORIES[trained] if trained else []
        expected = [{key: history[key] for key in keys} for history in made]
        # a rate that validation chose is one configuration more
        assert run.tried == {"near": 5, "far": 6}[told.recipe] + (name == "mike")
        assert run.further["training"] == expected
        assert run.further["trained_as"] == trained
    rates = [chosen["learning_rate"] for chosen in found["mike"].further["dynamic"]]
    assert rates == [0.1, 0.2]
    assert not any("dynamic" in run.further for name, run in found.items() if name != "mike")


def test_a_trained_run_without_its_history_borrows_none(context_stage):
    lacking = {name: files for name, files in HISTORIES.items() if name != "bravo"}
    with pytest.raises(KeyError, match="bravo"):
        measured_runs(context_stage, LOSSES, TOLD, lacking)


def test_a_seed_without_its_file_is_no_silent_loss(context_stage):
    fewer = {**LOSSES, "bravo": LOSSES["bravo"][:1]}
    with pytest.raises(AssertionError):
        measured_runs(context_stage, fewer, TOLD, HISTORIES)


def test_what_is_read_can_be_reported(recipe_of, context_stage):
    """From the stage of one run to the rows of all: names and seeds fit together."""
    losses = {}
    for name, run in context_stage.runs.items():
        recipe = context_stage.recipes[run.recipe]
        base = vars(trained_of(name, recipe, recipe_name=run.recipe, arm=run.arm))
        config = MeasureStageConfig(**base, context=context_stage.context)
        arm = "sliding" if run.arm == "dynamic" else run.arm
        place = {"vocabulary": SYMBOLS, "device": CPU}
        losses[name] = []
        for seed in SEEDS:
            state = state_of(recipe.model, arm, name, str(seed))
            state = None if arm == "untrained" else state
            model = measured_model(recipe.model, run.arm, state, seed=seed, **place)
            arrays, _ = read_sets(
                model, config, markov_material(CHAINS), None, device=CPU, log=lambda line: None
            )
            losses[name].append(arrays)
    measured = measured_runs(context_stage, losses, TOLD, HISTORIES)
    blocks = context_runs(measured, context_stage.context, bytes_per_token={})
    assert set(context_stage.runs) <= set(blocks)
    rows = {(row["metric"], row["seed"]): row["value"] for row in blocks["zulu"]["rows"]}
    means = [float(arrays["few/nll_NT"].mean()) for arrays in losses["zulu"]]
    for seed, expected in zip((None, *SEEDS), (np.mean(means), *means), strict=True):
        assert rows["few_nll", seed] == pytest.approx(expected, abs=1e-6)


def part(split, kind, number):
    return {"split": split, "kind": kind, "bytes_per_token": number, "tokens": 1}


def test_bytes_of_a_token_are_those_of_the_sets_corpus_kind_and_the_test_split():
    text = {"corpus": "text", "kind": "play"}
    talk = {"corpus": "text", "kind": "conversation"}
    config = context_of(
        chains=SET,
        plays={**SET, **text},
        talks={**SET, **talk},
        books={**SET, **text} | {"corpus": "books"},
    )
    facts = {
        "books": {"parts": [part("train", "play", 1.0), part("test", "play", 2.0)]},
        "text": {
            "parts": [
                *(part("test", "conversation", 3.0), part("validation", "play", 4.0)),
                *(part("test", "play", 5.0), part("train", "conversation", 6.0)),
            ]
        },
    }
    expected = {"plays": 5.0, "talks": 3.0, "books": 2.0}
    assert bytes_per_token(config, facts) == expected
    facts["text"]["parts"].pop(0)
    with pytest.raises(ValueError, match="unpack"):
        bytes_per_token(config, facts)


# --- adapters

ADAPTER = AdapterRunConfig(
    base="alpha",
    form="shared",
    rank=None,
    vector=None,
    learning_rate=0.01,
    control="none",
    control_of=None,
)
CONTROL = dataclasses.replace(ADAPTER, control="permuted", control_of="zulu")


def adapter_files(number):
    """What one adapter at two seeds leaves: `number` marks it, its tenths the seed."""
    losses, told = [], []
    for place in range(2):
        after = number + 0.1 * place
        before_C = np.full(4, 9.0 + place)
        read = {"before_C": before_C, "after_C": np.full(4, after), "tokens_C": before_C}
        read |= {"before_ttt_C": before_C - 2, "after_ttt_C": read["after_C"] - 2}
        losses.append(read)
        reply = {"prompt": "Hi", "base": "a b c", "adapter": f"{number} {place} d"}
        points = [{"step": 1, "train_loss": after, "val_nll": after}]
        history = {"trained_parameters": 100 * number, "points": points}
        told.append({"code": "c", "replies": [reply], "history": history})
    return losses, told


@pytest.fixture(scope="module")
def adapter_blocks():
    runs = {"zulu": ADAPTER, "alpha": CONTROL, "mike": dataclasses.replace(ADAPTER, base="bravo")}
    marks = {"mike": 1, "zulu": 2, "alpha": 5}
    left = {name: adapter_files(number) for name, number in marks.items()}
    losses, told = ({name: files[k] for name, files in left.items()} for k in (0, 1))
    tried = {"zulu": 7, "alpha": 8, "mike": 9}
    return adapter_runs(runs, losses, told, tried=tried, seeds=SEEDS, resamples=100)


def test_every_adapter_gets_its_own_files_seed_by_seed(adapter_blocks):
    assert list(adapter_blocks) == ["alpha", "mike", "zulu"]
    for name, number in {"mike": 1, "zulu": 2, "alpha": 5}.items():
        block = adapter_blocks[name]
        rows = {(row["metric"], row["seed"]): row for row in block["rows"]}
        after = {None: number + 0.05, 3: number, 1: number + 0.1}
        for seed, value in after.items():
            assert rows["dialogue_nll.after", seed]["value"] == pytest.approx(value)
        before = {None: 9.5, 3: 9.0, 1: 10.0}
        for seed, value in before.items():
            assert rows["dialogue_nll.before", seed]["value"] == pytest.approx(value)
        assert rows["trained_parameters", None]["value"] == 100 * number
        tried = {"zulu": 7, "alpha": 8, "mike": 9}[name]
        assert rows["configurations_tried", None]["value"] == tried
        assert block["curves"]["val_nll"] == [[number], [pytest.approx(number + 0.1)]]
        replies = [(reply["seed"], reply["adapter"]) for reply in block["replies"]]
        assert replies == [(3, f"{number} 0 d"), (1, f"{number} 1 d")]
        assert block["base"] == ("bravo" if name == "mike" else "alpha")


def test_an_adapter_stands_beside_its_own_controls_alone(adapter_blocks):
    against = {
        name: {r["metric"]: r["value"] for r in block["rows"] if ".minus_" in r["metric"]}
        for name, block in adapter_blocks.items()
    }
    assert against["mike"] == against["alpha"] == {}
    both = ["dialogue_nll.minus_alpha", "dialogue_nll_ttt.minus_alpha"]
    assert list(against["zulu"]) == both
    rows = adapter_blocks["zulu"]["rows"]
    whole = [r for r in rows if r["metric"] == "dialogue_nll.minus_alpha" and r["seed"] is None]
    assert [row["value"] for row in whole] == [pytest.approx(2 - 5)]
    assert {row["control_of"] for row in adapter_blocks["alpha"]["rows"]} == {"zulu"}
    assert set(rows[0]) == {field.name for field in dataclasses.fields(Row)}


# --- the grid

GRID = {
    "prompts": 2,
    "adapt_ratios": [0.5],
    "repeats": [2],
    "trials": 1,
    "batch": 20,
    "resamples": 100,
    "recipes": {
        "near": {
            "max_tokens": 180,
            "source_measure": False,
            "sweep": {
                **{"learning_rates": [0.5], "chunks": [8], "prompts": 2},
                **{"adapt_ratio": 0.5, "repeats": 1},
            },
        },
        "far": {"max_tokens": 160, "source_measure": True, "sweep": None},
    },
}
CODEC = Codec(byte_tokenizer())


@pytest.fixture(scope="module")
def grid_files(recipe_of, tmp_path_factory):
    """Settings, weights and adapters of two runs at two seeds, all in another order."""
    size = {"chunk": 8, "window": 8}
    recipes = {"near": recipe_of("text", **size), "far": recipe_of("books", width=12, **size)}
    bases = {
        "alpha": trained_of("alpha", recipes["near"], recipe_name="near"),
        "zulu": trained_of("zulu", recipes["far"], recipe_name="far"),
    }
    adapters = {"ada": dataclasses.replace(ADAPTER, base="zulu"), "yak": ADAPTER}
    config = GridStageConfig(
        bases=bases,
        adapters=adapters,
        grid=build(GridConfig, GRID, where="grid"),
        tried={"near": 5, "far": 6},
        seeds=SEEDS,
    )
    folder = tmp_path_factory.mktemp("adapters")
    states, folders = {}, {}
    for name in ("yak", "ada"):
        base = bases[adapters[name].base]
        size, arm = base.recipe.model, base.arm
        states[base.name] = [
            state_of(size, arm, base.name, str(seed), vocabulary=CODEC.vocabulary) for seed in SEEDS
        ]
        folders[name] = []
        for seed, state in zip(SEEDS, states[base.name], strict=True):
            model = trained_model(size, arm, state, vocabulary=CODEC.vocabulary, device=CPU)
            tuned = adapt(model, adapters[name], seed=seed)
            moved(tuned)
            folders[name].append(str(folder / name / f"seed{seed}" / "adapter"))
            save_adapter(tuned, folders[name][-1], base_name=base.name)
    return config, states, folders


def moved(tuned):
    """Give an adapter values that training could have left."""
    generator = torch_generator(0, "moved")
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture(scope="module")
def codecs():
    return {"books": CODEC, "text": CODEC}


@pytest.fixture(scope="module")
def nets(grid_files, codecs):
    config, states, folders = grid_files
    lines = []
    found = measured_nets(config, codecs, states, folders, device=CPU, log=lines.append)
    return found, lines


def test_the_grid_names_a_run_its_adapter_and_what_training_began_with(nets):
    found, lines = nets
    kinds = {"": "base", "_adapter": "adapter", "_untrained": "untrained"}
    expected = {f"{run}{end}": kind for run in ("alpha", "zulu") for end, kind in kinds.items()}
    assert {name: net.net for name, net in found.items()} == expected
    assert list(found) == list(expected)
    assert lines == [f"{name}: memory grid read" for name in expected]
    for name, net in found.items():
        run, _, kind = name.partition("_")
        assert (net.seeds, net.recipe) == (SEEDS, {"alpha": "near", "zulu": "far"}[run])
        assert net.control_of == (run if kind == "untrained" else None)
        assert (run in net.against) == bool(kind)
        swept = name == "alpha"  # its recipe has a sweep; adapters and beginnings have none
        assert len(net.sweeps) == (2 if swept else 0)
        assert all(len(points) == 1 for points in net.sweeps)
        assert ("source_none_CN" in net.readings[0]) == (run == "zulu")


def test_networks_of_the_grid_are_those_of_their_run_and_seed(grid_files, nets):
    """Each reading again from weights found by name, on texts laid out and drawn again."""
    config, states, folders = grid_files
    for run, adapter in {"alpha": "yak", "zulu": "ada"}.items():
        base = config.bases[run]
        recipe = config.grid.recipes[base.recipe_name]
        texts = grid_texts(
            CODEC.encode,
            prompts=2,
            adapt_ratios=(0.5,),
            repeats=(2,),
            max_tokens=recipe.max_tokens,
        )
        generator = numpy_generator(0, "ttt_grid", "contexts", base.recipe_name)
        drawn = {"trials": 1, "vocabulary": CODEC.plain_ids, "generator": generator}
        contexts = contexts_of(texts, CONTROLS, **drawn)
        size, arm, place = base.recipe.model, base.arm, {"vocabulary": CODEC.vocabulary}
        for index, seed in enumerate(SEEDS):
            model = trained_model(size, arm, states[run][index], **place, device=CPU)
            models = {
                run: model,
                f"{run}_adapter": load_adapter(model, folders[adapter][index]),
                f"{run}_untrained": build_model(
                    size, arm, **place, generator=torch_generator(seed, "weights")
                ),
            }
            for name, one in models.items():
                expected = measure_grid(
                    one, texts, contexts, base.recipe.inner, batch=20, source_measure=False
                )
                for key in ("none_CN", "own_CN", "random_RCN"):
                    found = nets[0][name].readings[index][key]
                    np.testing.assert_allclose(found, expected[key], rtol=1e-6)
    losses = [
        reading["none_CN"].mean().item() for net in nets[0].values() for reading in net.readings
    ]
    assert len(losses) == 12
    apart = np.abs(np.subtract.outer(losses, losses)) + np.eye(12)
    assert apart.min() > 1e-5  # so that no network can stand for another


def test_what_the_grid_read_can_be_reported(grid_files, nets):
    found = nets[0]
    blocks = grid_runs(found, grid_files[0].grid)
    assert list(blocks) == list(found)
    lines = grid_table(found, PROMPTS).splitlines()
    assert len(lines) == 1 + 6 * 2 * 2  # networks, seeds, prompts
    tried = {
        (run, row["value"])
        for run, block in blocks.items()
        for row in block["rows"]
        if row["metric"] == "configurations_tried"
    }
    ends = ("", "_adapter", "_untrained")
    assert tried == {(r + end, n) for r, n in (("alpha", 5), ("zulu", 6)) for end in ends}
    value = blocks["alpha_adapter"]["rows"][0]["value"]
    assert math.isclose(value, np.mean([one["none_CN"] for one in found["alpha_adapter"].readings]))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"yak": dataclasses.replace(ADAPTER, base="mike")}, "[]"),
        ({"zoe": ADAPTER}, "['yak', 'zoe']"),
    ],
)
def test_a_run_of_the_grid_has_one_adapter(grid_files, codecs, change, names):
    config, states, folders = grid_files
    other = dataclasses.replace(config, adapters={**config.adapters, **change})
    with pytest.raises(ConfigError) as caught:
        measured_nets(other, codecs, states, folders, device=CPU, log=lambda line: None)
    assert str(caught.value) == f"adapters of alpha must be one that is no control, got {names}"


def test_a_seed_without_its_adapter_is_no_silent_loss(grid_files, codecs):
    config, states, folders = grid_files
    fewer = {**folders, "yak": folders["yak"][:1]}
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        measured_nets(config, codecs, states, fewer, device=CPU, log=lambda line: None)
