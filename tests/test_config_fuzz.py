"""Fuzzing of the configuration: whatever is wrong in it, one sentence says where.

The merged configuration of every size is mutated at random addresses. Then either all builds that
the Snakefile derives from it, down to the settings of every single job, twice alike; or a
`ConfigError` of one line names a key of the block that was mutated, and no job starts.
"""

from __future__ import annotations

import ast
import copy
import datetime
import functools
import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_workflow import SMOKE, Clone

from mneme.core.config import ConfigError, build, fingerprint
from mneme.core.workflow import canonical, merge
from mneme.lattice.paths import LatticePaths
from mneme.lattice.rule_blocks import lattice_blocks
from mneme.routing.blocks import rule_blocks
from mneme.routing.paths import RoutingPaths
from mneme.settings import Settings, load_settings
from mneme.ttt.blocks import ttt_blocks
from mneme.ttt.paths import TTTPaths
from mneme.zeta.blocks import zeta_blocks, zeta_paths

ROOT = Path(__file__).parents[1]
SIZES = ["default", "smoke", "fast", "long", "gpu"]
SHARED = {"results", "resources", "backbone", "backbones", "contexts", "other_backbone", "routing"}
"""Top-level keys that are checked against one another."""


@functools.cache
def config_of(size):
    """Return the configuration that the Snakefile is handed."""
    names = re.findall(
        r'^configfile: "(.+)"', (ROOT / "Snakefile").read_text(encoding="utf-8"), re.M
    )
    names += [] if size == "default" else [f"config/{size}.yaml"]
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in names]
    return functools.reduce(merge, map(yaml.safe_load, texts), {})


# --- what the Snakefile derives


@functools.cache
def told_to(rule):
    """Return the settings class that the rule's script asks the library for, and where; or None."""
    tree = ast.parse((ROOT / "workflow" / "scripts" / f"{rule}.py").read_text(encoding="utf-8"))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "job.settings"
    ]
    homes = {
        name.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    if not calls:
        return None
    (call,) = calls
    name = ast.unparse(call.args[0])
    if name not in homes:  # a class of the script's own
        return None
    return getattr(importlib.import_module(homes[name]), name), call.keywords[0].value.value


def asked_of(config):
    """Return rule -> wildcards of all its jobs, and every file, as `rules/*.smk` derive them."""
    room = config.routing
    routing = RoutingPaths(results=config.results, backbone=config.backbone, config=room)
    zeta = zeta_paths(config.results, config.zeta)
    sets = config.ttt.context.sets.values()
    ttt = TTTPaths(
        results=config.results,
        recipes=config.ttt.recipes,
        runs=config.ttt.runs,
        adapters=config.ttt.adapter.runs,
        context_corpora=sorted({one.corpus for one in sets}),
        borrowed=[n for n, one in config.ttt.corpora.items() if one.tokenizer == "smollm2"],
        seeds=config.ttt.seeds,
    )
    lattice = LatticePaths(
        results=config.results, runs=config.lattice.runs, seeds=config.lattice.seeds
    )
    blocks = {
        "env_check": {"device": config.device, "results": config.results},
        **dict.fromkeys(["assets_corpora", "assets_convert", "assets_minilm"], config.assets),
        **rule_blocks(room, config.chosen, name=config.backbone, resources=config.resources),
        **zeta_blocks(config.zeta, zeta),
        **ttt_blocks(config.ttt, ttt),
        **lattice_blocks(config.lattice, lattice, config.resources),
        "claims": {"claims": config.claims},
    }
    names = {
        "routing_adapter_fit": [{"run": name} for name in room.adapters.runs],
        "routing_mixer_fit": [{"mixer": name} for name in room.mixers],
        "routing_trace": [{"phase": "hysteresis"}, {"phase": "fatigue"}],
        **{
            f"zeta_{step}": [{"run": name} for name in names]
            for kind, names in (("", zeta.transformer_runs), ("primes_", zeta.phase_runs))
            for step in (f"{kind}fit", f"{kind}measure")
        },
        "ttt_prepare": [{"corpus": name} for name in ttt.corpora],
        "ttt_fit": [{"run": name} for name in ttt.fitted],
        "ttt_measure": [{"run": name} for name in ttt.measured],
        "ttt_adapter_fit": [{"run": name} for name in ttt.adapters],
        "lattice_embed": [{"backbone": name} for name in lattice.teachers],
        "lattice_fit": [
            {"backbone": name, "run": arm}
            for name in lattice.teachers
            for arm in lattice.runs[name]
        ],
        "lattice_measure": [{"backbone": name} for name in lattice.teachers],
    }
    assert {rule for rule, block in blocks.items() if callable(block)} == set(names)
    assert all(names.values())  # an empty list would be a wildcard that nothing fits
    files = [
        *[routing.adapter_weights(name) for name in room.adapters.runs],
        routing.first_adapters(room.adapters.headline),
        routing.first_adapters(room.original.adapter_run),
        routing.adapter_seeds(room.adapters.headline, "losses.json")[:1],
        *[routing.mixer_start(name) for name in room.mixers],
        *[routing.mixer_seeds("mixer_fit", run.mixer, "w") for run in room.runs.values()],
        *[[zeta.series(name)] for name in zeta.runs],
        zeta.of("fit", zeta.slot_runs, "w"),
        zeta.of("measure", zeta.ablation_runs, "w"),
        zeta.of("fit", zeta.kernel_runs, "w"),
        [zeta.step("prepare", f"{system}.npz") for system in zeta.systems],
        zeta.rolled(),
        zeta.measures(),
        zeta.histories(),
        *[[*ttt.prepared(corpus).values()] for corpus in (*ttt.read_corpora, *ttt.grid_corpora)],
        *[[*ttt.prepared(ttt.corpus(name)).values()] for name in ttt.runs],
        *[[*ttt.prepared(ttt.base_corpus(name)).values()] for name in ttt.adapters],
        *[ttt.seeded("fit", ttt.weights_of(name), "w") for name in ttt.measured],
        ttt.of("fit", ttt.grid_runs, "w"),
        ttt.of("adapter_fit", ttt.grid_adapters, "w"),
        ttt.of("fit", ttt.compared, "w"),
        *[lattice.fits(name, "w") for name in lattice.teachers],
    ]
    jobs = {
        (rule, *place.values()): canonical(
            block(SimpleNamespace(**place)) if callable(block) else block
        )
        for rule, block in blocks.items()
        for place in names.get(rule, [{}])
    }
    return jobs, files


def derived(mapping):
    """Return all that the Snakefile derives from `mapping`, after every job took its own part."""
    config = load_settings(mapping)
    jobs, files = asked_of(config)
    for path in (path for group in files for path in group):
        assert not re.search(r"[{}\0\n]", path), path  # Snakemake would read them as wildcards
    for (rule, *_), block in jobs.items():
        found = told_to(rule)
        if found is not None:
            cls, where = found
            try:
                build(cls, block, where=where)
            except ConfigError as error:
                raise AssertionError(f"job {rule} starts and stops with: {error}") from error
    return fingerprint(config), repr(jobs), repr(files)


# --- mutations

HUGE = [10**30, -(10**30), 2**63, 10**400, 1 << 20000]
ODD = ["", " ", "\0", "a\nb", "no", "ß/µ", "../x", "{run}", "~nobody", "x" * 5000, "1e-4", "null"]
scalars = st.one_of(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(),
    st.sampled_from(HUGE) | st.sampled_from(ODD) | st.text(max_size=6),
    st.sampled_from([b"x", datetime.date(2020, 1, 1), {"a"}, 0.5, 1.0, 5e-324, 1e308, 64, 1000]),
)
values = (
    scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text("ab", max_size=2), scalars)
)
new_keys = st.sampled_from(
    ["tupels", "original", "Ours", "a.b", "a b", "", "ß", "a\nb", "{x}", "2"]
)
new_keys |= st.text(max_size=4) | st.none() | st.integers(0, 1) | st.booleans()


def addresses(tree, at=()):
    """Return the address of every key and list item, in order."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = []
    for key, value in items:
        found.append((*at, key))
        if isinstance(value, (dict, list)):
            found += addresses(value, (*at, key))
    return found


def at(tree, address):
    return functools.reduce(lambda block, key: block[key], address, tree)


def mutated(draw):
    """Return a mutated configuration, and the addresses where it was."""
    config = copy.deepcopy(config_of(draw(st.sampled_from(SIZES))))
    places = [mutate(draw, config) for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3])))]
    return config, [place for group in places for place in group]


def mutate(draw, config):
    """Mutate `config` at one address (or two) and return it."""
    every = addresses(config)
    top = draw(st.sampled_from(sorted({str(address[0]) for address in every})))
    address = draw(st.sampled_from([a for a in every if str(a[0]) == top]))
    kind = draw(st.sampled_from(MUTATIONS))
    return kind(draw, config, at(config, address[:-1]), address[-1], address)


def delete(draw, config, block, key, address):
    del block[key]
    return [address]


def add(draw, config, block, key, address):
    new = draw(new_keys)
    if isinstance(block, list):
        block.append(copy.deepcopy(draw(st.sampled_from(block))))
        return [address]
    block[new] = copy.deepcopy(block[key])
    return [(*address[:-1], new)]


def replace(draw, config, block, key, address):
    block[key] = draw(values)
    return [address]


def nudge(draw, config, block, key, address):
    """Replace a value by another of its own type: one that a reader of the file might write."""
    value = block[key]
    if isinstance(value, bool):
        near = [not value]
    elif isinstance(value, int):
        near = [0, 1, 2, value - 1, value + 1, value // 2, 2 * value, 10 * value, -value, 2**62]
    elif isinstance(value, float):
        near = [0.0, 0.5, 1.0, value / 2, 2 * value, -value, 5e-324, 1e308]
    elif isinstance(value, str):
        same = [at(config, place) for place in addresses(config) if place[-1] == key]
        names = [str(name) for name in (block if isinstance(block, dict) else config)]
        near = sorted({one for one in same if isinstance(one, str)}) + names + ODD[:1]
    elif isinstance(value, list) and value:
        near = [value[::-1], value + value[-1:], value[:1], value[1:], value[:-1], []]
    else:
        near = [None if value else {}]
    block[key] = draw(st.sampled_from(near))
    return [address]


def swap(draw, config, block, key, address):
    other = draw(st.sampled_from(addresses(config)))
    if other[: len(address)] == address or address[: len(other)] == other:
        return delete(draw, config, block, key, address)
    theirs = at(config, other[:-1])
    block[key], theirs[other[-1]] = theirs[other[-1]], block[key]
    return [address, other]


def rename(draw, config, block, key, address):
    """Rename a key, keeping its place."""
    if isinstance(block, list):
        return delete(draw, config, block, key, address)
    new = draw(new_keys)
    items = [(new if name == key else name, value) for name, value in block.items()]
    block.clear()
    block.update(items)
    return [address, (*address[:-1], new)]


def control(draw, config, block, key, address):
    """Let a run be the control of any run, of itself, or of nobody."""
    named = [a for a in addresses(config) if a[-1] == "control_of"]
    if not named:
        return delete(draw, config, block, key, address)
    chosen = draw(st.sampled_from(named))
    others = [*at(config, chosen[:-2]), "nobody"]
    at(config, chosen[:-1])["control_of"] = draw(st.sampled_from(others))
    return [chosen]


MUTATIONS = [delete, add, replace, *[nudge] * 8, swap, rename, control]


# --- the tests


@pytest.mark.parametrize("size", SIZES)
def test_every_size_derives_the_same_twice(size):
    assert derived(config_of(size)) == derived(copy.deepcopy(config_of(size)))


def names_the_mistake(sentence, places):
    """Check that a message is one line that begins with a key of what was mutated, or beside it."""
    assert sentence.isprintable(), sentence
    tops = {str(place[0]) for place in places}
    if tops & SHARED:
        tops |= SHARED
    named = re.match(r"config\.(\w*)", sentence)
    return named is not None and (named[1] in tops or not tops <= {*Settings.__annotations__})


fuzz = functools.partial(settings, deadline=None, suppress_health_check=list(HealthCheck))


def written(address):
    """Return an address as a message writes it."""
    keys = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in address)
    return f"config{''.join(keys)}"


def is_refused_by_its_name(size, address):
    """Check that a value of a type that no key has is refused under the key's whole address."""
    config = json.loads(json.dumps(config_of(size)))  # no two places share a block
    at(config, address[:-1])[address[-1]] = b"x"
    with pytest.raises(ConfigError) as error:
        load_settings(config)
    assert str(error.value).startswith(f"{written(address)} must be "), str(error.value)


@fuzz(max_examples=40, derandomize=True, database=None)
@given(st.data())
def test_a_value_of_a_wrong_type_is_refused_under_its_whole_address(data):
    size = data.draw(st.sampled_from(SIZES))
    is_refused_by_its_name(size, data.draw(st.sampled_from(addresses(config_of(size)))))


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_so_is_one_at_every_address(size):
    for address in addresses(config_of(size)):
        is_refused_by_its_name(size, address)


def builds_or_is_refused(data):
    config, places = mutated(data.draw)
    before = copy.deepcopy(config)
    try:
        first = derived(config)
    except ConfigError as error:
        sentence = str(error)
    else:
        assert repr(config) == repr(before)
        assert derived(before) == first
        return
    assert names_the_mistake(sentence, places), (sentence, places)


@fuzz(max_examples=60, derandomize=True, database=None)
@given(st.data())
def test_a_mutated_configuration_builds_or_is_refused_in_one_sentence(data):
    builds_or_is_refused(data)


@pytest.mark.slow
@fuzz(max_examples=5000)
@given(st.data())
def test_so_do_thousands_of_mutated_configurations(data):
    builds_or_is_refused(data)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return Clone(tmp_path_factory.mktemp("clone"))


@pytest.mark.workflow
@pytest.mark.parametrize(
    "overlay",
    [
        {"routing": {"runs": {"aa": {"control_of": "aa"}}}, "threads": 10**400},
        {"results": "Makefile"},
        {"lattice": {"teachers": {"a\nb": 5}}},
    ],
)
def test_snakemake_says_that_sentence_and_starts_nothing(clone, overlay, monkeypatch):
    (clone.folder / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    monkeypatch.chdir(clone.folder)
    with pytest.raises(ConfigError) as refused:
        load_settings(merge(config_of("smoke"), overlay))
    status, text = clone.snakemake("-n", *SMOKE, "overlay.yaml")
    assert status == 1
    assert text.splitlines()[-1] == f"ConfigError: {refused.value}", text
    assert text.count("Error") == 1  # its name, ConfigError, and no other
    assert "Traceback" not in text
    assert not re.search("Job stats|^(local)?rule ", text, re.M)
    assert not (clone.folder / "results").exists()
