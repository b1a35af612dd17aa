"""All five sizes build; every mistake in them ends in one sentence before the first job."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from mneme.cli import main
from mneme.core.config import ConfigError, build, describe, fingerprint, plain
from mneme.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
SIZES = ["default", "smoke", "fast", "long", "gpu"]


def read(name):
    return yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text(encoding="utf-8"))


def config_of(size):
    """Return the configuration that Snakemake hands to the Snakefile."""
    config: dict = {}
    for path in re.findall(
        r'^configfile: "config/(\w+)\.yaml"', (ROOT / "Snakefile").read_text(), re.M
    ):
        update_config(config, read(path))
    if size != "default":
        update_config(config, read(size))
    return config


@pytest.fixture
def config():
    return copy.deepcopy(config_of("default"))


@pytest.mark.parametrize("size", SIZES)
def test_every_size_builds_and_can_be_written_out_again(size):
    settings = load_settings(config_of(size))
    assert build(Settings, plain(settings), where="config") == settings
    assert settings.chosen == settings.backbones[settings.backbone]


def test_the_sizes_differ_and_write_to_folders_of_their_own():
    built = [load_settings(config_of(size)) for size in SIZES]
    assert len({fingerprint(settings.routing) for settings in built}) == len(SIZES)
    assert len({settings.results for settings in built}) == len(SIZES)


def test_the_fast_mode_is_the_sources():
    for run in load_settings(config_of("fast")).routing.adapters.runs.values():
        assert (run.samples, run.tokens, run.epochs, run.batch) == (50, 32, 1, 8)
        assert run.learning_rate == 1e-4


def test_the_gpu_size_has_five_seeds_everywhere():
    large = load_settings(config_of("gpu"))
    seeds = (large.routing.seeds, large.routing.adapters.seeds, large.zeta.seeds)
    assert [len(s) for s in (*seeds, large.ttt.seeds, large.lattice.seeds)] == [5] * 5


def test_the_default_has_what_the_protocol_asks_for():
    routing = load_settings(config_of("default")).routing
    assert routing.protocol.tuples >= 50
    assert len(routing.seeds) >= 3
    assert len(routing.protocol.dwell_tokens) == 8
    assert routing.protocol.threshold == 0.9
    assert routing.protocol.run_tokens == 3
    assert (routing.adapters.rank, routing.adapters.alpha) == (8, 16.0)
    runs = (
        "ours token ema_oracle ema untrained shuffled_labels reset aa bab blocked shuffled_b probe"
    )
    assert set(runs.split()) <= set(routing.runs)


def test_every_key_is_explained():
    assert [doc.key for doc in describe(Settings) if not doc.doc.strip()] == []


def edit(config, address, value):
    *path, last = address.split(".")
    for step in path:
        config = config[step]
    config[last] = value


def test_an_unknown_key_is_named_with_the_nearest_known_one(config):
    edit(config, "routing.protocol.tupels", 4)
    with pytest.raises(ConfigError, match=r"config\.routing\.protocol\.tupels .* 'tuples'\?"):
        load_settings(config)


OURS = {"mixer": "ours", "context": "real", "control_of": None}
MIXER, ADAPTER = (
    plain(found)
    for found in (
        load_settings(config_of("default")).routing.mixers["token"],
        load_settings(config_of("default")).routing.adapters.runs["none"],
    )
)


@pytest.mark.parametrize(
    ("address", "value", "sentence"),
    [
        ("threads", 0, "config.threads must be at least 1, got 0"),
        ("device", "tpu", "config.device must be one of 'auto', 'cpu', 'cuda', got 'tpu'"),
        ("results", "", "config.results must be a folder, got ''"),
        ("results", "resources/", "config.results must be a folder other than resources"),
        (
            "routing.domains",
            [{"name": "shakespeare", "corpus": "shakespeare"}],
            "config.routing.domains must be a list of at least two domains",
        ),
        ("routing.domains", [], "config.routing.domains must be a list of at least two domains"),
        (
            "routing.domains",
            [{"name": "python", "corpus": "shakespeare"}, {"name": "python", "corpus": "python"}],
            "config.routing.domains must be distinct names",
        ),
        ("routing.pair", ["python", "python"], "config.routing.pair must be two different names"),
        ("routing.pair", ["python", "latin"], "config.routing.pair must be two different names"),
        ("routing.seeds", [], "config.routing.seeds must be a list of at least one seed"),
        ("routing.seeds", [1, 1], "config.routing.seeds must be distinct"),
        ("routing.adapters.headline", "x", "config.routing.adapters.headline must be one of"),
        ("routing.adapters.rank", 0, "config.routing.adapters.rank must be at least 1, got 0"),
        ("routing.runs.aa.mixer", "nobody", "config.routing.runs.aa.mixer must be one of"),
        ("routing.runs.aa.control_of", "nobody", "config.routing.runs.aa.control_of must be null"),
        ("routing.protocol.threshold", 0.42, "config.routing.protocol.threshold must be in [0.5"),
        ("routing.protocol.threshold", 0.91, "config.routing.protocol.thresholds must be holding"),
        ("routing.protocol.dwell_tokens", [64, 16, 32], "dwell_tokens must be at least 3 increas"),
        ("routing.protocol.dwell_tokens", [8, 16], "dwell_tokens must be at least 3 increasing"),
        ("routing.mixers.ours.decay", 1.0, "config.routing.mixers.ours.decay must be in [0, 1)"),
        ("routing.adapters.runs.sleep.learning_rate", "1e-4", "write 1.0e-4"),
        (
            "routing.adapters.headline",
            "original",
            "one of ['none', 'replay', 'sleep'] (runs with ab",
        ),
        ("routing.runs.aa.control_of", "aa", "runs.aa.control_of must be null or another run"),
        ("routing.runs.original", OURS, "runs must be without 'original'"),
        ("routing.runs.Ours", OURS, "routing.runs must be named by a letter"),
        ("routing.mixers.a-b", MIXER, "routing.mixers must be named by a letter"),
        ("routing.adapters.runs.2nd", ADAPTER, "routing.adapters.runs must be named by a letter"),
        (
            "routing.domains",
            [{"name": "_a", "corpus": "python"}, {"name": "b", "corpus": "python"}],
            "name must be 1..64 letters, digits, - or _, the first a letter or digit, got '_a'",
        ),
        (
            "routing.domains",
            [{"name": "a_minus_b", "corpus": "python"}, {"name": "b", "corpus": "python"}],
            "name must be without '_minus_', which metrics put between two",
        ),
        (
            "routing.tried.adapters",
            {"none": 4},
            "tried.adapters must be one count for each of none, original, replay, sleep, got",
        ),
        ("routing.tried.mixer_designs", 0, "routing.tried.mixer_designs must be at least 1, got 0"),
        ("routing.protocol.mix_piece_tokens", 33, "mix_piece_tokens must be 1..32, half of segm"),
        ("routing.protocol.run_tokens", 17, "run_tokens must be 1..16, the shortest of"),
        ("routing.protocol.run_tokens", 0, "run_tokens must be 1..16, the shortest of"),
        ("routing.protocol.deep_weight", 1.0, "deep_weight must be in (0, 1)"),
        ("routing.protocol.deep_weight", 0.0, "deep_weight must be in (0, 1)"),
        ("routing.protocol.thresholds", [0.9, 1.0], "thresholds must be each in [0.5, 1)"),
        ("routing.protocol.thresholds", [0.4, 0.9], "thresholds must be each in [0.5, 1)"),
        ("routing.protocol.segment_tokens", 31, "segment_tokens must be at least 32"),
        ("routing.protocol.gap_tokens", 65, "gap_tokens must be 1..segment_tokens"),
        ("routing.calibration.learning_rates", [0.0], "learning_rates must be at least one, each"),
        ("routing.calibration.learning_rates", [0.1, 1.0], "learning_rates must be at least one"),
        ("routing.calibration.learning_rates", [], "learning_rates must be at least one, each"),
        ("routing.original.tail_tokens", 0, "original.tail_tokens must be at least 1"),
        ("routing.original.area_tokens", 0, "original.area_tokens must be at least 1"),
        ("routing.original.threshold", 1.0, "original.threshold must be in (0, 1)"),
        ("routing.original.threshold", 0.0, "original.threshold must be in (0, 1)"),
        ("routing.original.dwell_tokens", [0, 9], "dwell_tokens must be at least two lengths from"),
        ("backbones.gpt2.target_modules", [], "gpt2.target_modules must be a list of at least one"),
        ("other_backbone.target_modules", [], "other_backbone.target_modules must be a list of at"),
        ("contexts", {"nobody": 1}, "config.contexts must be by names out of ['gpt2'"),
        (
            "results",
            "a\0b",
            r"config.results must be a path of one line without { and }, got 'a\x00b'",
        ),
        ("results", "{run}", "config.results must be a path of one line without { and }"),
        ("resources", "a\nb", "config.resources must be a path of one line without { and }"),
        ("results", "x" * 256, "config.results must be a folder, or where one can be made"),
        ("results", f"{ROOT}/Makefile", "config.results must be a folder, or where one can be"),
        ("results", f"{ROOT}/Makefile/x", "config.results must be a folder, or where one can be"),
        ("assets.lock", " ", "config.assets.lock must be a file, got ' '"),
        ("assets.lock", "config", "config.assets.lock must be a file, got 'config'"),
        ("assets.lock", "nowhere", "config.assets.lock must be a file, got 'nowhere'"),
        ("assets.lock", "{x}", "config.assets.lock must be a path of one line without { and }"),
        (
            "assets.corpora.members",
            {},
            "assets.corpora.members must be one entry for each of shakespeare, python, chitchat",
        ),
        ("other_backbone.gate_layer", -1, "config.other_backbone.gate_layer must be at least 0"),
        ("backbones.smollm2-135m.name", "x", "smollm2-135m.name must be one of smollm2-135m where"),
        ("backbones.smollm2-135m.source", "local", "smollm2-135m.name must be a directory that ho"),
        ("lattice.teachers.minilm.name", "{x}", "minilm.name must be one of smollm2-135m, minilm"),
        ("lattice.teachers.minilm.source", "local", "minilm.name must be a directory that holds c"),
    ],
)
def test_every_mistake_is_one_sentence(config, address, value, sentence):
    edit(config, address, value)
    with pytest.raises(ConfigError) as error:
        load_settings(config)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "address", ["lattice.teachers.minilm", "backbones.smollm2-135m"], ids=["teacher", "backbone"]
)
def test_a_name_too_long_for_a_folder_is_one_sentence(config, address):
    edit(config, f"{address}.source", "local")
    edit(config, f"{address}.name", "x" * 5000)
    with pytest.raises(ConfigError, match=rf"^config\.{address}\.name must be a directory that"):
        load_settings(config)


@pytest.mark.parametrize("key", ["results", "resources"])
@pytest.mark.parametrize("target", ["loop", "nowhere"])
def test_a_link_that_leads_nowhere_is_no_folder(config, tmp_path, key, target):
    link = tmp_path / "loop"
    link.symlink_to(tmp_path / target)
    for folder in (link, link / "below"):
        config[key] = str(folder)
        with pytest.raises(ConfigError, match=rf"^config\.{key} must be a folder, or where one"):
            load_settings(config)
    if target == "nowhere":
        (tmp_path / target).mkdir()
        load_settings(config)


def test_a_dwell_longer_than_the_context_is_refused(config):
    lengths = [16, 64, 1024]
    edit(config, "routing.protocol.dwell_tokens", lengths)
    load_settings(config)
    config["backbone"] = "gpt2"
    with pytest.raises(ConfigError) as error:
        load_settings(config)
    assert str(error.value) == (
        "config.routing.protocol.dwell_tokens must be shorter: its sequences must fit the 1024 "
        "tokens of gpt2's context, got '1152 tokens in all'"
    )
    edit(config, "routing.protocol.dwell_tokens", [16, 64, 1024 - 128])
    load_settings(config)


def test_a_sampled_continuation_longer_than_the_context_is_refused(config):
    config["backbone"] = "gpt2"
    longest = 1024 - 2 - max(config["routing"]["original"]["dwell_tokens"])
    edit(config, "routing.original.new_tokens", longest)
    load_settings(config)
    edit(config, "routing.original.new_tokens", longest + 1)
    with pytest.raises(ConfigError, match=r"original\.new_tokens must be shorter.*1025 tokens in"):
        load_settings(config)


def test_every_backbone_names_the_layers_of_its_own_family(config):
    config["backbone"] = "gpt2"
    assert load_settings(config).chosen.target_modules == ("c_attn", "c_proj", "c_fc")
    config["backbone"] = "org/name"
    llama = load_settings(config).chosen.target_modules
    assert len(llama) == 7
    assert llama == load_settings(config).backbones["smollm2-135m"].target_modules


@pytest.mark.parametrize(
    ("choice", "revision"), [("org/name", None), (f"org/name@{'a1' * 20}", "a1" * 20)]
)
def test_a_hub_id_becomes_a_backbone_of_its_own(config, choice, revision):
    config["backbone"] = choice
    settings = load_settings(config)
    assert settings.backbone == "org--name"
    assert settings.chosen.source == "hub"
    assert settings.chosen.name == "org/name"
    assert settings.chosen.revision == revision
    assert settings.chosen.gate_layer == config["other_backbone"]["gate_layer"]
    assert "org/name" in settings.chosen.license_url


def test_a_directory_becomes_a_backbone_of_its_own(config, tmp_path):
    folder = tmp_path / "gpt2"
    folder.mkdir()
    config["backbone"] = str(folder)
    with pytest.raises(ConfigError, match=r"must be a directory that holds config\.json"):
        load_settings(config)
    (folder / "config.json").write_text("{}")
    settings = load_settings(config)
    assert settings.backbone == "local--gpt2"
    assert settings.chosen.source == "local"
    assert settings.chosen.name == str(folder)
    assert settings.backbones["gpt2"].source == "hub"


CHOICES = [
    "nobody",
    "",
    "/not/there",
    "a/b/c",
    "org/name@main",
    "../not/there",
    "~nobody",
    "x" * 5000,
]


@pytest.mark.parametrize("choice", [*CHOICES, "~\0"])
def test_any_other_backbone_is_refused_with_the_choices(config, choice):
    config["backbone"] = choice
    with pytest.raises(
        ConfigError, match=r"must be one of gpt2, .* hub id \(org/name or .*director"
    ):
        load_settings(config)


@pytest.mark.parametrize("name", ["a/b", "{run}", "..", "", "a\nb"])
def test_a_backbone_whose_name_is_no_folders_is_refused(config, name):
    config["backbones"][name] = config["backbones"]["gpt2"]
    with pytest.raises(ConfigError, match=r"^config\.backbones must be named by letters, digits"):
        load_settings(config)


@pytest.mark.parametrize("size", SIZES[1:])
def test_mneme_config_explains_every_key_of_every_size(size, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["config", "--configfile", f"config/{size}.yaml"]) == 0
    text = capsys.readouterr().out
    heads = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert len(heads) == len(describe(Settings))
    tuples = load_settings(config_of(size)).routing.protocol.tuples
    meaning = "Text tuples (A1, B, A2, ...) from the test split, at least 2."
    assert f"routing.protocol.tuples  (int)\n    {meaning}\n    = {tuples}\n" in text


def test_mneme_config_narrows_to_a_prefix(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["config", "routing.mixers.ema.decay"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "    = 0.9"
    assert main(["config", "routing.domains[1].name"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == '    = "python"'
    assert main(["config", "routing.nothing"]) == 1
    assert (
        capsys.readouterr().err
        == "mneme: no key is named 'routing.nothing': `mneme config` lists all\n"
    )


def test_mneme_config_outside_the_clone_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["config"]) == 1
    assert "is missing: run mneme in the clone's root folder" in capsys.readouterr().err
    (tmp_path / "config").mkdir()
    for name in ("assets", "config"):
        (tmp_path / "config" / f"{name}.yaml").write_text("a: [")
    assert main(["config"]) == 1
    assert "assets.yaml is not YAML: " in capsys.readouterr().err
