"""Settings of the room: every size loads, every mistake names its key, files keep to their run."""

from __future__ import annotations

import copy
import dataclasses
import functools
import subprocess
import sys
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from mneme.core.config import ConfigError, build, plain
from mneme.core.workflow import canonical, merge
from mneme.ttt.blocks import ttt_blocks
from mneme.ttt.config import Arm, RecipeConfig
from mneme.ttt.paths import MARKOV, TTTPaths, by_run
from mneme.ttt.settings import TTTConfig
from mneme.ttt.stages import (
    AdapterFitStageConfig,
    AdapterStageConfig,
    ContextStageConfig,
    FitStageConfig,
    GridStageConfig,
    MeasureStageConfig,
    ModelStageConfig,
    PrepareStageConfig,
    TrainedConfig,
)

FOLDER = Path(__file__).parents[2] / "config"
SIZES = ["config", "smoke", "fast", "long", "gpu"]
STAGES = {
    "ttt_prepare": PrepareStageConfig,
    "ttt_fit": FitStageConfig,
    "ttt_measure": MeasureStageConfig,
    "ttt_adapter_fit": AdapterFitStageConfig,
    "ttt_model": ModelStageConfig,
    "ttt_adapter": AdapterStageConfig,
    "ttt_grid": GridStageConfig,
    "ttt_context": ContextStageConfig,
}
OF = {
    "ttt_prepare": "corpora",
    "ttt_fit": "fitted",
    "ttt_measure": "measured",
    "ttt_adapter_fit": "adapters",
}
"""Rules with a job a name -> the names, as `rules/ttt.smk` constrains its wildcards."""
WHOLE = [(rule, None) for rule in STAGES if rule not in OF]
ADAPTERS = ["tinylora", "permuted", "original"]
SLIDING = {"recipe": "text", "arm": "sliding", "steps_factor": 1, "control_of": None}
LONGER = {**SLIDING, "steps_factor": 2.5, "control_of": "text_second"}
DYNAMIC = {"recipe": "text", "arm": "dynamic", "steps_factor": 1, "control_of": "text_sliding"}
TWO_MLP = {"recipe": "text", "arm": "two_mlp", "steps_factor": 1, "control_of": "text_second"}
NAIVE = {**TWO_MLP, "arm": "naive"}


@functools.cache
def room(size="config"):
    """Return the block `ttt` of the default configuration, or with an overlay laid over it."""
    content = yaml.safe_load((FOLDER / f"{size}.yaml").read_text(encoding="utf-8"))
    return content["ttt"] if size == "config" else merge(room(), content.get("ttt", {}))


CONFIG = room()
WIDER = copy.deepcopy(CONFIG)
WIDER["runs"] = {
    "text_dynamic": DYNAMIC,
    "text_naive": NAIVE,
    "text_two_mlp": TWO_MLP,
    **WIDER["runs"],
}
"""The same with runs that are measured and not trained: they have another's weights."""


def edited(changes, content=CONFIG):
    content = copy.deepcopy(content)
    for address, value in changes.items():
        *path, last = address.split(".")
        block = content
        for step in path:
            block = block[step]
        if value is KeyError:
            del block[last]
        else:
            block[last] = value
    return content


def load(content):
    return build(TTTConfig, content, where="config.ttt")


def paths_of(config, results="results"):
    """Return addresses as `rules/ttt.smk` makes them."""
    return TTTPaths(
        results=results,
        recipes=config.recipes,
        runs=config.runs,
        adapters=config.adapter.runs,
        context_corpora=sorted({one.corpus for one in config.context.sets.values()}),
        borrowed=[n for n, one in config.corpora.items() if one.tokenizer == "smollm2"],
        seeds=config.seeds,
    )


def params(content):
    """Return (rule, name) -> what its job is told."""
    config = load(content)
    paths = paths_of(config)
    blocks = ttt_blocks(config, paths)
    assert set(blocks) == set(STAGES)
    told: dict[tuple[str, str | None], Any] = {at: canonical(blocks[at[0]]) for at in WHOLE}
    for rule, names in OF.items():
        for name in getattr(paths, names):
            wildcards = SimpleNamespace(run=name, corpus=name)
            told[rule, name] = canonical(blocks[rule](wildcards))
    return told


def files(content):
    """Return every list of files and names that a rule is made of."""
    paths = paths_of(load(content))
    fitted, measured, grid = paths.fitted, paths.measured, paths.grid_adapters
    return {
        "corpora": paths.corpora,
        "grid_corpora": [paths.prepared(corpus) for corpus in paths.grid_corpora],
        "read_corpora": paths.read_corpora,
        "fitted": fitted,
        "measured": measured,
        "adapters": list(paths.adapters),
        "weights": {run: paths.seeded("fit", paths.weights_of(run), "w") for run in paths.runs},
        "prepared": {run: paths.prepared(paths.corpus(run)) for run in paths.runs},
        "bases": {name: paths.base_corpus(name) for name in paths.adapters},
        "ttt_model": paths.of("fit", fitted, "history.json"),
        "ttt_adapter": paths.of("adapter_fit", paths.adapters, "told.json"),
        "grid_runs": paths.of("fit", paths.grid_runs, "model.safetensors"),
        "grid_adapters": paths.of("adapter_fit", grid, "adapter"),
        "ttt_context": paths.of("measure", measured, "losses.npz"),
        "compared": paths.of("fit", paths.compared, "history.json"),
    }


# --- what rules are told


def test_all_sizes_are_tested():
    others = {"assets", "claims"}
    assert {path.stem for path in FOLDER.glob("*.yaml")} - others == set(SIZES)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_loads_and_can_be_written_out_again(size):
    config = load(room(size))
    assert load(plain(config)) == config
    default = {"markov_second", "markov_first", "markov_sliding", "text_second", "text_sliding"}
    assert {*default, "original"} <= set(config.runs)


@pytest.mark.parametrize("size", SIZES)
def test_every_rule_is_told_what_its_script_asks_for(size):
    """Params are plain, sorted builtins: each must build the script's own settings."""
    config = load(room(size))
    paths = paths_of(config)
    found = {at: build(STAGES[at[0]], told, where="ttt") for at, told in params(room(size)).items()}
    seeded = [one for (rule, _), one in found.items() if rule in STAGES and hasattr(one, "seeds")]
    assert {one.seeds for one in seeded} == {config.seeds}
    for name in paths.corpora:
        one = found["ttt_prepare", name]
        assert (one.name, one.corpus) == (name, config.corpora[name])
    for name in paths.fitted:
        require_told(found["ttt_fit", name], name, config)
    for name in paths.measured:
        one = found["ttt_measure", name]
        require_told(one, name, config)
        sets = config.context.sets_of(one.recipe.corpus)
        assert one.context.sets.keys() == sets.keys() != set()
        for each, told in one.context.sets.items():  # bins belong to the report
            assert dataclasses.replace(told, edges=sets[each].edges) == sets[each]
        assert (one.context.dynamic == config.context.dynamic) == (one.arm == "dynamic")
    for name, run in config.adapter.runs.items():
        one = found["ttt_adapter_fit", name]
        assert (one.name, one.run, one.training) == (name, run, config.adapter.training)
        assert one.measure == config.adapter.measure
        require_told(one.base, run.base, config)


def require_told(found, name, config):
    run = config.runs[name]
    recipe = config.recipe(name)
    assert isinstance(found, TrainedConfig)
    assert (found.name, found.arm, found.recipe_name) == (name, run.arm, run.recipe)
    assert found.recipe == recipe
    corpus = (found.corpus, found.markov)
    drawn = recipe.corpus == MARKOV
    assert corpus == ((None, config.markov) if drawn else (config.corpora[recipe.corpus], None))


@pytest.mark.parametrize("size", SIZES)
def test_reports_are_told_of_the_runs_they_read(size):
    config, told = load(room(size)), params(room(size))
    paths = paths_of(config)
    model, grid, context = (
        build(STAGES[rule], told[rule, None], where="ttt")
        for rule in ("ttt_model", "ttt_grid", "ttt_context")
    )
    assert model.runs == {name: config.runs[name] for name in paths.fitted}
    assert list(model.runs) == sorted(model.runs)
    assert context.runs == {name: config.runs[name] for name in paths.measured}
    assert set(context.recipes) == {run.recipe for run in context.runs.values()}
    assert context.context == config.context
    assert {run.base for run in grid.adapters.values()} == set(grid.bases) == set(paths.grid_runs)
    assert all(run.control_of is None for run in grid.adapters.values())
    for name, base in grid.bases.items():
        require_told(base, name, config)
        assert base.recipe_name in grid.grid.recipes
    assert told["ttt_adapter", None]["resamples"] == config.adapter.resamples


FITTED_TEXT = ["text_second", "text_sliding", "text_two_mlp"]
UNFITTED = {"text_dynamic", "text_naive", "text_untrained", "markov_untrained"}
BOTH = [*FITTED_TEXT, "text_dynamic", "text_naive", "text_untrained"]
FITTED_MARKOV = ["markov_second", "markov_first", "markov_sliding"]
MARKOVS = [*FITTED_MARKOV, "markov_untrained"]


def of(rule, names):
    return [(rule, name) for name in names]


ALL_RUNS = of("ttt_fit", [*FITTED_MARKOV, *FITTED_TEXT, "original"]) + of(
    "ttt_measure", MARKOVS + BOTH
)


@pytest.fixture(scope="module")
def told():
    """What every job is told before an edit."""
    return params(WIDER)


@pytest.mark.parametrize(
    ("changes", "jobs"),
    [
        (
            {"runs.text_second.control_of": "text_sliding"},
            [("ttt_model", None), ("ttt_context", None)],
        ),
        (
            {"runs.markov_first.arm": "two_mlp"},
            [
                *of("ttt_fit", ["markov_first"]),
                *of("ttt_measure", ["markov_first"]),
                ("ttt_model", None),
                ("ttt_context", None),
            ],
        ),
        (
            {"runs.text_dynamic.control_of": None},
            [("ttt_context", None)],
        ),
        (
            {"recipes.text.training.steps": 99991},
            [
                *of("ttt_fit", FITTED_TEXT),
                *of("ttt_measure", BOTH),
                *of("ttt_adapter_fit", ["tinylora", "permuted"]),
                ("ttt_grid", None),
                ("ttt_context", None),
            ],
        ),
        (
            {"recipes.markov.inner.learning_rate": 0.123},
            [*of("ttt_fit", FITTED_MARKOV), *of("ttt_measure", MARKOVS), ("ttt_context", None)],
        ),
        (
            {"sizes.tiny.qk_norm": False},
            [("ttt_fit", "original"), ("ttt_adapter_fit", "original"), ("ttt_grid", None)],
        ),
        ({"markov.seed": 99}, of("ttt_fit", FITTED_MARKOV) + of("ttt_measure", MARKOVS)),
        (
            {"corpora.source_text.seed": 99},
            [
                ("ttt_prepare", "source_text"),
                ("ttt_fit", "original"),
                ("ttt_adapter_fit", "original"),
                ("ttt_grid", None),
            ],
        ),
        (
            {"adapter.runs.permuted.learning_rate": 0.123},
            [("ttt_adapter_fit", "permuted"), ("ttt_adapter", None)],
        ),
        (
            {"adapter.runs.tinylora.rank": 77},
            [("ttt_adapter_fit", "tinylora"), ("ttt_adapter", None), ("ttt_grid", None)],
        ),
        ({"adapter.training.steps": 99991}, of("ttt_adapter_fit", ADAPTERS)),
        ({"grid.trials": 77}, [("ttt_grid", None)]),
        (
            {"context.sets.chains.documents": 9999},
            [*of("ttt_measure", MARKOVS), ("ttt_context", None)],
        ),
        (
            {"context.sets.plays.documents": 9999},
            [*of("ttt_measure", BOTH), ("ttt_context", None)],
        ),
        ({"chat.exchanges": 77}, []),
        (
            {"seeds": [8, 7]},
            ALL_RUNS + of("ttt_adapter_fit", ADAPTERS) + WHOLE,
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_an_edit_changes_what_its_own_jobs_are_told_and_nothing_else(told, changes, jobs):
    """Editing one run must rerun that run only."""
    before, after = told, params(edited(changes, WIDER))
    assert before.keys() == after.keys()
    assert {at for at in before if before[at] != after[at]} == set(jobs)


def test_reports_alone_are_told_of_another_run(told):
    further = {
        "runs.text_full": {"recipe": "text", "arm": "full", "steps_factor": 1, "control_of": None}
    }
    before, after = told, params(edited(further, WIDER))
    new = {("ttt_fit", "text_full"), ("ttt_measure", "text_full")}
    assert after.keys() - before.keys() == new
    changed = {at for at in before if before[at] != after[at]}
    assert changed == {("ttt_model", None), ("ttt_context", None)}


def turned(value):
    """Write every block of keys the other way around."""
    if not isinstance(value, dict):
        return value
    return {key: turned(value[key]) for key in reversed(value)}


def test_the_order_of_the_yaml_changes_neither_params_nor_files(told):
    other = turned(WIDER)
    assert list(other["runs"]) != list(WIDER["runs"])
    again = params(other)
    # Snakemake compares the text of params: the order of their keys counts
    assert {at: repr(block) for at, block in again.items()} == {
        at: repr(block) for at, block in told.items()
    }
    assert files(other) == files(WIDER)


# --- addresses


def test_addresses():
    config = load(edited({"seeds": [2, 0]}, WIDER))
    paths = paths_of(config)
    assert paths.seeded("fit", "original", "history.json") == [
        f"results/ttt/fit/original/seed{seed}/history.json" for seed in (2, 0)
    ]
    assert paths.corpora == ["source_text", "text"]
    assert paths.borrowed == ["source_text", "source_daily"]
    assert paths.read_corpora == ["text"]
    assert paths.prepared(MARKOV) == {}
    assert paths.prepared("text")["tokens"] == "results/ttt/prepare/text/tokens.npz"
    assert set(paths.runs) - set(paths.fitted) == UNFITTED
    assert paths.measured == sorted(MARKOVS + BOTH)
    assert set(paths.measured) - set(paths.compared) == UNFITTED
    assert (paths.grid_adapters, paths.grid_runs, paths.grid_corpora) == (
        ["original", "tinylora"],
        ["original", "text_second"],
        ["source_text", "text"],
    )
    assert paths.base_corpus("original") == "source_text"


def test_dynamic_evaluation_reads_with_the_weights_of_its_recipes_sliding_window():
    # A longer training of the same arm stands beside it, first by name.
    paths = paths_of(load(edited({"runs.a_longer": LONGER}, WIDER)))
    assert paths.weights_of("text_dynamic") == "text_sliding"
    assert all(paths.weights_of(name) == name for name in paths.fitted)
    found = paths.weights("text_dynamic")
    assert found == paths.seeded("fit", "text_sliding", "model.safetensors")
    assert paths.weights("text_untrained") == []
    assert paths.weights("text_naive") == paths.seeded("fit", "text_two_mlp", "model.safetensors")


@pytest.mark.parametrize("size", SIZES)
def test_claims_rest_on_seeds_and_documents_that_no_trial_used(size):
    """Trials and first runs: seeds 0 to 4, the last documents as dealt, chains of test seed 0."""
    config = load(room(size))
    assert not set(config.seeds) & set(range(5))
    assert {one.test_part for one in config.corpora.values()} == {"first"}
    assert config.markov.test_seed != 0
    assert len(config.seeds) == {"long": 3, "gpu": 5}.get(size, 1)


@pytest.mark.parametrize("size", ["long", "gpu"])
def test_larger_sizes_have_every_comparison_and_every_context(size):
    config = load(room(size))
    for recipe in ("text", "markov"):
        arms = {run.arm for run in config.runs.values() if run.recipe == recipe}
        assert arms == {*typing.get_args(Arm)}
        longer = {
            run.arm for run in config.runs.values() if run.recipe == recipe and run.steps_factor > 1
        }
        assert longer == {"sliding", "first"}, "equal parameters, equal tokens, equal time"
    assert set(config.context.untrained_kinds) == set(config.context.kinds)
    assert set(config.context.dynamic.kinds) == set(config.context.kinds)


def test_an_arm_that_trains_as_long_as_another_has_more_steps_and_nothing_else():
    config = load(edited({"runs.text_longer": LONGER}))
    plain, longer = config.recipe("text_sliding"), config.recipe("text_longer")
    assert (plain.training.steps, longer.training.steps) == (160, 400)
    assert (plain.training.eval_every, longer.training.eval_every) == (40, 100)
    same = dataclasses.replace(longer.training, steps=160, eval_every=40)
    assert dataclasses.replace(longer, training=same) == plain
    told = params(edited({"runs.text_longer": LONGER}))["ttt_fit", "text_longer"]
    assert told["recipe"]["training"]["steps"] == 400


@pytest.mark.parametrize("size", SIZES)
def test_every_size_tells_how_many_configurations_were_tried(size):
    config, told = load(room(size)), params(room(size))
    for rule, recipes in {
        "ttt_model": {config.runs[name].recipe for name in paths_of(config).fitted},
        "ttt_context": {config.runs[name].recipe for name in paths_of(config).measured},
        "ttt_grid": {config.runs[name].recipe for name in paths_of(config).grid_runs},
    }.items():
        assert told[rule, None]["tried"] == {r: config.tried.recipes[r] for r in recipes}
    assert told["ttt_adapter", None]["tried"] == config.tried.adapters
    assert set(config.tried.adapters) == set(config.adapter.runs)


PARAMETERS = {
    "tiny": (103e3, 104e3),
    "small": (1e6, 3e6),
    "125m": (80e6, 90e6),
    "350m": (295e6, 310e6),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_named_sizes_are_what_they_say(name):
    """Parameters besides embedding and head, counted on the network itself."""
    import torch

    from mneme.ttt.model import TTTTransformer

    config = load(CONFIG).sizes[name]
    with torch.device("meta"):
        one, two = (TTTTransformer(config, arm, vocabulary=8) for arm in ("sliding", "second"))
    counts = [sum(p.numel() for p in m.blocks.parameters()) for m in (one, two)]
    low, high = PARAMETERS[name]
    assert low < counts[0] <= high
    assert counts[1] == pytest.approx(counts[0], rel=0.02)
    assert config.ttt_blocks == max(config.blocks // 4, {"small": 2}.get(name, 1))


def test_an_adapter_beside_another_one_is_no_adapter_of_the_grid():
    """Two forms on one run: the second stands beside the first, and the grid reads the first."""
    shared = {"form": "shared", "rank": None, "vector": None, "control_of": "tinylora"}
    further = {**CONFIG["adapter"]["runs"]["tinylora"], **shared}
    updated = [*CONFIG["adapter"]["measure"]["updated"], "form"]  # the control of one that is
    changes = {"adapter.runs.form": further, "tried.adapters.form": 1}
    config = load(edited({**changes, "adapter.measure.updated": updated}))
    assert paths_of(config).grid_adapters == ["original", "tinylora"]


def test_files_of_runs_are_never_mixed_up():
    """Only their addresses tell files apart, in whatever order they come."""
    # a results folder that looks like an address itself
    paths = paths_of(load(edited({"seeds": [5, 3]}, WIDER)), results="out/original/seed3")
    given = paths.of("adapter_fit", ["tinylora", "original"], "adapter")
    assert by_run(iter(given)) == {
        name: [f"out/original/seed3/ttt/adapter_fit/{name}/seed{n}/adapter" for n in (5, 3)]
        for name in ("tinylora", "original")
    }
    apart = ["r/s/b/seed1/x", "r/s/a/seed0/x", "r/s/b/seed0/x"]
    assert by_run(apart) == {"b": [apart[0], apart[2]], "a": [apart[1]]}


# --- mistakes

BASE = CONFIG["adapter"]["runs"]["tinylora"]
LOST = {**BASE, "base": "lost"}
TALKERS = "a run with fast weights on text: original, text_second"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        # names that lead nowhere
        (
            {"runs.text_second.recipe": "txt"},
            "runs.text_second.recipe must be one of markov, original, text, got 'txt'",
        ),
        (
            {"recipes.text.corpus": "books"},
            "recipes.text.corpus must be one of markov, source_daily, source_text, text, got "
            "'books'",
        ),
        (
            {"corpora.markov": CONFIG["corpora"]["text"]},
            "corpora must be without markov, which is drawn, got ['markov', 'source_daily', "
            "'source_text', 'text']",
        ),
        (
            {"runs.text_sliding.control_of": "text"},
            "runs.text_sliding.control_of must be null or another run, got 'text'",
        ),
        (
            {"runs.text_sliding.control_of": "text_sliding"},
            "runs.text_sliding.control_of must be null or another run, got 'text_sliding'",
        ),
        (
            {"adapter.runs.tinylora.base": "text"},
            f"adapter.runs.tinylora.base must be {TALKERS}, got 'text'",
        ),
        (
            {"adapter.runs.tinylora.base": "text_sliding"},
            f"adapter.runs.tinylora.base must be {TALKERS}, got 'text_sliding'",
        ),
        (
            {"adapter.runs.tinylora.base": "markov_second"},
            f"adapter.runs.tinylora.base must be {TALKERS}, got 'markov_second'",
        ),
        (
            {
                "corpora.text.sources": {"shakespeare": 1.0},
                "context.sets": {"plays": CONFIG["context"]["sets"]["plays"]},
            },
            "adapter.runs.tinylora.base must be a run whose corpus has conversations, "
            "got 'text_second'",
        ),
        (
            {"adapter.runs": {"permuted": CONFIG["adapter"]["runs"]["permuted"], "tinylora": LOST}},
            f"adapter.runs.tinylora.base must be {TALKERS}, got 'lost'",
        ),
        (
            {"adapter.runs.permuted.control_of": "lora"},
            "adapter.runs.permuted.control_of must be null or one of tinylora, permuted, "
            "original, got 'lora'",
        ),
        (
            {"adapter.runs.permuted.control_of": "permuted"},
            "adapter.runs.permuted.control_of must be null or another adapter of its base, "
            "got 'permuted'",
        ),
        (
            {"adapter.runs.permuted.control_of": "original"},
            "adapter.runs.permuted.control_of must be null or another adapter of its base, "
            "got 'original'",
        ),
        ({"adapter.runs": {}}, "adapter.runs must be with one that is no control, got []"),
        (
            {"adapter.runs.second": BASE},
            "adapter.runs.second.control_of must be another adapter of text_second, as the grid "
            "reads one adapter a run, got None",
        ),
        ({"chat.run": "text_sliding"}, f"chat.run must be {TALKERS}, got 'text_sliding'"),
        ({"chat.run": "nobody"}, f"chat.run must be {TALKERS}, got 'nobody'"),
        (
            {"grid.recipes.text": KeyError},
            "grid.recipes must be with text, the recipe of text_second, which the grid reads, "
            "got ['original']",
        ),
        (
            {"grid.recipes.txt": CONFIG["grid"]["recipes"]["text"]},
            "grid.recipes must be some of markov, original, text, got 'txt'",
        ),
        (
            {"context.sets.plays.corpus": "books"},
            "context.sets.plays.corpus must be one of markov, source_text, text, got 'books'",
        ),
        (
            {"context.sets.plays.kind": "chain"},
            "context.sets.plays.kind must be a kind that corpus text has: play, conversation, "
            "got 'chain'",
        ),
        (
            {"context.sets.chains.kind": "play"},
            "context.sets.chains.kind must be a kind that corpus markov has: chain, got 'play'",
        ),
        (
            {"corpora.text.sources": {"chitchat": 1.0}},
            "context.sets.plays.kind must be a kind that corpus text has: conversation, got 'play'",
        ),
        # dynamic evaluation has no weights of its own
        (
            {"runs.far": {**DYNAMIC, "recipe": "original"}},
            "runs.far.arm must be another arm: its weights are those of the recipe's one sliding "
            "run, got 'dynamic'",
        ),
        (
            {"adapter.measure.updated": ["tinylora"]},
            "adapter.measure.updated must be names of adapter.runs, with the controls of each, got",
        ),
        (
            {"markov.begin.steps": 3, "markov.begin.tokens": 48},
            "markov.begin.tokens must be above inner.chunk = 32 and a divisor of training.tokens = "
            "512, got 48",
        ),
        (
            {"runs.text_naive": {**NAIVE, "recipe": "markov"}},
            "runs.text_naive.arm must be another arm: its weights are those of the recipe's "
            "one two_mlp run, got 'naive'",
        ),
        (
            {"runs.text_dynamic": DYNAMIC, "runs.again": SLIDING},
            "runs.text_dynamic.arm must be another arm: its weights are those of the recipe's "
            "one sliding run, got 'dynamic'",
        ),
        (
            {"runs.x": {**DYNAMIC, "arm": "untrained"}, "chat.run": "x"},
            f"chat.run must be {TALKERS}",
        ),
        # sizes
        (
            {"recipes.text.size": "huge"},
            "recipes.text.size must be one of 125m, 350m, chains, mini, small, tiny, got 'huge'",
        ),
        (
            {"recipes.text.inner.chunk": 33},
            "recipes.text.inner.chunk must be at most the window (k = 32): k >= b, got 33",
        ),
        # trained for longer
        (
            {"runs.text_second.steps_factor": 2},
            "runs.text_second.steps_factor must be 1 for arm second: only first and sliding may "
            "train longer, got 2.0",
        ),
        (
            {"runs.text_sliding.steps_factor": 0.5},
            "runs.text_sliding.steps_factor must be 1 to 100",
        ),
        *(
            (
                {"runs.x": {**LONGER, "control_of": other}},
                "runs.x.steps_factor must be 1, unless control_of is a trained run of its recipe, "
                "whose time it is given, got 2.5",
            )
            for other in (None, "markov_second", "text_untrained")
        ),
        # counts
        (
            {"tried.recipes.text": KeyError},
            "tried.recipes must be one count for each of markov, original, text, got ['markov', "
            "'original']",
        ),
        ({"tried.adapters.tinylora": 0}, "tried.adapters.tinylora must be at least 1, got 0"),
        # two alike
        ({"seeds": [0, 1, 0]}, "seeds must be different ones, at least one, got (0, 1, 0)"),
        ({"seeds": []}, "seeds must be different ones, at least one, got ()"),
        (
            {"runs.text_second_adapter": SLIDING},
            "runs must be without the name text_second_adapter, which the grid gives, "
            "got 'text_second_adapter'",
        ),
        (
            {"runs.original_untrained": SLIDING},
            "runs must be without the name original_untrained, which the grid gives, "
            "got 'original_untrained'",
        ),
        (
            {"context.kinds": ["own", "own", "none"]},
            "context.kinds must be different ones, with own and none, got ('own', 'own', 'none')",
        ),
        # names that are no address
        ({"runs.Text": SLIDING}, "runs must be named in lower case, digits and _, got 'Text'"),
        (
            {"adapter.runs.a/b": BASE},
            "adapter.runs must be named in lower case, digits and _, got 'a/b'",
        ),
        (
            {"corpora.a/b": CONFIG["corpora"]["text"]},
            "corpora must be named in lower case, digits and _, got 'a/b'",
        ),
        (
            {"context.sets.a/b": CONFIG["context"]["sets"]["plays"]},
            "context.sets must be named in lower case, digits and _, got 'a/b'",
        ),
        # keys and types
        (
            {"recipes.text.training.stepz": 3},
            "recipes.text.training.stepz is not a known key; did you mean 'steps'?",
        ),
        ({"recipes.text.inner.clip": KeyError}, "recipes.text.inner.clip is missing: add it"),
        ({"recipes.text": None}, "recipes.text must be a block of keys, got None"),
        ({"runs": []}, "runs must be a block of named entries, got []"),
        ({"seeds": 0}, "seeds must be a list, got 0"),
        ({"recipes.text.training.steps": 3.0}, "recipes.text.training.steps must be int, got 3.0"),
        ({"recipes.text.training.batch": True}, "recipes.text.training.batch must be int"),
        ({"sizes.mini.tied": 1}, "sizes.mini.tied must be bool, got 1"),
        (
            {"recipes.text.training.learning_rate": "3e-3"},
            "recipes.text.training.learning_rate must be float, got '3e-3' (YAML reads 1e-4 as "
            "text: write 1.0e-4)",
        ),
        (
            {"runs.text_second.arm": "secnd"},
            "runs.text_second.arm must be one of 'full', 'sliding', 'two_mlp', 'dynamic', "
            "'first', 'second', 'naive', 'untrained', got 'secnd'",
        ),
        (
            {"recipes.text.training.objective": "both"},
            "recipes.text.training.objective must be one of 'all_chunks', 'split', got 'both'",
        ),
    ],
)
def test_mistakes_end_in_one_sentence(changes, sentence):
    with pytest.raises(ConfigError) as caught:
        load(edited(changes))
    message = str(caught.value)
    assert message.startswith(f"config.ttt.{sentence}")
    assert "\n" not in message


RECIPE = {
    "corpus": "text",
    "model": {
        **{"blocks": 4, "width": 96, "heads": 4, "hidden": 256, "ttt_blocks": 2, "window": 32},
        **{"rope_base": 1e4, "qk_norm": True, "tied": True},
    },
    "inner": {"chunk": 32, "learning_rate": 1.0, "clip": 1.0},
    "training": {
        **{"steps": 140, "batch": 8, "micro_batch": 8, "tokens": 512, "learning_rate": 3e-3},
        **{"warmup": 20, "weight_decay": 0.1, "clip": 1.0, "objective": "all_chunks"},
        **{"adapt_share": 0.2, "inner_warmup": 100, "inner_start": 0.1, "checkpointed": False},
        **{"eval_every": 40, "eval_documents": 16},
    },
}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"inner.chunk": 33}, "inner.chunk must be at most the window (k = 32): k >= b, got 33"),
        (
            {"model.window": 513},
            "training.tokens must be at least the window (k = 513), got 512",
        ),
        (
            {"training.tokens": 32},
            "training.tokens must be above inner.chunk = 32, or no loss sees an update, got 32",
        ),
        ({"model.blocks": 0}, "model.blocks must be at least 1, got 0"),
        ({"model.width": 0}, "model.width must be at least 1, got 0"),
        ({"model.heads": 0}, "model.heads must be at least 1, got 0"),
        ({"model.hidden": 0}, "model.hidden must be at least 1, got 0"),
        ({"model.window": 0}, "model.window must be at least 1, got 0"),
        ({"model.width": 94}, "model.width must be a multiple of 2 x heads = 8, got 94"),
        ({"model.width": 100}, "model.width must be a multiple of 2 x heads = 8, got 100"),
        ({"model.ttt_blocks": 0}, "model.ttt_blocks must be 1 to 4, got 0"),
        ({"model.ttt_blocks": 5}, "model.ttt_blocks must be 1 to 4, got 5"),
        ({"model.rope_base": 1.0}, "model.rope_base must be null or above 1, got 1.0"),
        ({"inner.chunk": 0}, "inner.chunk must be at least 1, got 0"),
        ({"inner.learning_rate": -0.1}, "inner.learning_rate must be at least 0, got -0.1"),
        ({"inner.clip": 0}, "inner.clip must be above 0, got 0.0"),
        *(
            ({f"training.{key}": 0}, f"training.{key} must be at least 1, got 0")
            for key in ("steps", "batch", "micro_batch", "tokens", "eval_every", "eval_documents")
        ),
        ({"training.micro_batch": 3}, "training.micro_batch must be a divisor of batch = 8, got 3"),
        ({"training.warmup": 140}, "training.warmup must be 0 to 139, got 140"),
        ({"training.warmup": -1}, "training.warmup must be 0 to 139, got -1"),
        ({"training.learning_rate": 0}, "training.learning_rate must be above 0, got 0.0"),
        ({"training.clip": 0}, "training.clip must be above 0, got 0.0"),
        ({"training.weight_decay": -1}, "training.weight_decay must be at least 0, got -1.0"),
        ({"training.adapt_share": 0}, "training.adapt_share must be between 0 and 1, got 0.0"),
        ({"training.adapt_share": 1}, "training.adapt_share must be between 0 and 1, got 1.0"),
        (
            {"training.objective": "split", "training.adapt_share": 1e-6},
            "training.adapt_share must be a share that leaves some of 512 tokens on both sides, "
            "got 1e-06",
        ),
        ({"training.inner_warmup": -1}, "training.inner_warmup must be at least 0, got -1"),
        ({"training.inner_start": 0}, "training.inner_start must be above 0, at most 1, got 0.0"),
        ({"training.inner_start": 2}, "training.inner_start must be above 0, at most 1, got 2.0"),
    ],
)
def test_mistakes_in_a_recipe(changes, sentence):
    with pytest.raises(ConfigError) as caught:
        build(RecipeConfig, edited(changes, RECIPE), where="recipe")
    assert str(caught.value) == f"recipe.{sentence}"


def test_limits_are_within():
    least = {
        **{"inner.chunk": 32, "inner.learning_rate": 0, "training.tokens": 33},
        **{"training.warmup": 139, "training.inner_start": 1, "model.ttt_blocks": 4},
        **{"model.rope_base": None, "model.width": 100},  # without rotation heads may be odd
    }
    found = build(RecipeConfig, edited(least, RECIPE), where="recipe")
    assert found.inner.chunk == found.model.window == found.training.tokens - 1 == 32
    # A split of one chunk has an update before its second part.
    split = {**least, "training.tokens": 32, "training.objective": "split"}
    assert build(RecipeConfig, edited(split, RECIPE), where="recipe").training.tokens == 32
    assert found.model.width // found.model.heads == 25


def test_settings_and_addresses_load_without_torch_and_scipy():
    code = (
        "import sys, mneme.ttt.settings, mneme.ttt.blocks, mneme.ttt.paths\n"
        "print(*sorted({'torch', 'scipy'} & set(sys.modules)), 'loaded')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["loaded"]
