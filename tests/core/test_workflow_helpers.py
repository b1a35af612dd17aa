"""Params of rules, lineage of headline files, merged configurations, the commit of a clone."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from snakemake.utils import update_config

from mneme.core.code import code_of, packages_of
from mneme.core.config import ConfigError, build
from mneme.core.lineage import lineage_of, upstream
from mneme.core.lineage import lineages as remembered
from mneme.core.workflow import canonical, commit_of, merge, or_exit, require_writable, stage_params
from mneme.report.summary import refuse_stale
from mneme.rooms import needs_of
from mneme.routing.published import PUBLISHED

ROOT = Path(__file__).parents[2]
NEEDS = needs_of(embedded=True)
HEADLINES = {
    "env": "env_check",
    "model": "model_load",
    "adapters": "routing_adapters",
    "mixer": "routing_mixer",
    "hysteresis": "hysteresis",
    "fatigue": "fatigue",
    "zeros": "zeros",
    "mdn": "mdn",
    "slot_ablation": "slot_ablation",
    "diagnostics": "diagnostics",
    "kernel": "kernel",
    "statistics": "statistics",
    "ttt_model": "ttt_model",
    "ttt_adapter": "ttt_adapter",
    "ttt_grid": "ttt_grid",
    "ttt_context": "ttt_context",
    "lattice": "lattice",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    b: tuple[int, ...]
    a: dict[str, float]


def test_params_hold_code_packages_and_plain_sorted_settings(tmp_path):
    script = tmp_path / "s.py"
    script.write_text("import numpy\n")
    params = stage_params(script, Block(b=(1, 2), a={"z": 1.0, "y": 2.0}), device="cpu")
    assert params == {
        "code": code_of(script),
        "packages": packages_of(script),
        "config": {"a": {"y": 2.0, "z": 1.0}, "b": [1, 2]},
        "device": "cpu",
    }
    assert repr(params["config"]) == "{'a': {'y': 2.0, 'z': 1.0}, 'b': [1, 2]}"


def test_a_function_of_the_wildcards_gives_that_runs_block(tmp_path):
    script = tmp_path / "s.py"
    script.write_text("")
    blocks = {"x": {"k": (1,)}, "y": {"k": (2,)}}
    config = stage_params(script, lambda wildcards: blocks[wildcards.run])["config"]
    assert config(SimpleNamespace(run="y")) == {"k": [2]}


scalars = st.none() | st.integers(0, 3) | st.text("ab", max_size=2)
trees = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(
        scalars | st.lists(scalars, max_size=2),
        lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)


@settings(max_examples=100, deadline=None)
@given(trees, trees)
def test_merge_is_snakemakes(base, overlay):
    theirs = copy.deepcopy(base)
    update_config(theirs, overlay)
    assert merge(base, overlay) == theirs


@settings(max_examples=30, deadline=None)
@given(trees, st.randoms(use_true_random=False))
def test_canonical_settings_do_not_depend_on_the_order_of_keys(tree, random):
    items = list(tree.items())
    random.shuffle(items)
    assert json.dumps(canonical(dict(items))) == json.dumps(canonical(tree))


def git(folder, *arguments):
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_named_with_whether_files_differ(tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    assert commit_of(tmp_path)["commit"] is None
    git(tmp_path, "commit", "--quiet", "-m", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit_of(tmp_path) == {"commit": head, "dirty": False, "reason": None}
    (tmp_path / "file").write_text("2")
    assert commit_of(tmp_path) == {"commit": head, "dirty": True, "reason": None}


def test_outside_a_clone_the_reason_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    found = commit_of(tmp_path)
    assert found["commit"] is None
    assert "not a git repository" in found["reason"]
    monkeypatch.setenv("PATH", "")
    assert commit_of(tmp_path) == {"commit": None, "dirty": None, "reason": "git is not installed"}


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """Return a copy of library, scripts, rules and settings."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("src", "rules", "config", "workflow"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copyfile(ROOT / "Snakefile", folder / "Snakefile")
    return folder


ORDERED = {"routing_trace_fatigue": "routing_trace"}
"""Rules of rules/order.smk, the same but for when they start -> what they are made of."""


def drawn_upstream(folder, *arguments):
    """Return rule -> itself and all rules upstream, as Snakemake draws them."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--rulegraph", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src")},
        check=True,
        capture_output=True,
        text=True,
    )
    found = re.findall(r"^\s*(\d+)\[\s*label\s*=\s*\"(\w+)", done.stdout, re.M)
    names = {number: ORDERED.get(name, name) for number, name in found}
    edges = re.findall(r"^\s*(\d+) -> (\d+)", done.stdout, re.M)
    assert len(names) > 10, done.stdout
    assert len(edges) > 10, done.stdout
    closure = {name: {name} for name in names.values()}
    for _ in names:  # as often as the longest path could need
        for above, below in edges:
            closure[names[below]] |= closure[names[above]]
    return closure


@pytest.mark.parametrize(("backbone", "embedded"), [("smollm2-135m", True), ("gpt2", False)])
def test_the_lineage_is_the_graph_that_snakemake_builds(copied, backbone, embedded):
    size = ("--configfile", "config/smoke.yaml", "--config", f"backbone={backbone}")
    drawn = drawn_upstream(copied, *size)
    needs = needs_of(embedded=embedded)
    for rule in set(drawn) - {"all", "summary", "report"}:
        assert set(upstream(rule, needs)) == drawn[rule], rule
    assert set(drawn) - {"all", "summary", "report"} == set(needs)


def lineages(folder):
    scripts = folder / "workflow" / "scripts"
    return {phase: lineage_of(rule, scripts, NEEDS) for phase, rule in HEADLINES.items()}


def test_a_lineage_that_remembers_is_the_lineage_and_hashes_a_script_once(copied, monkeypatch):
    scripts, hashed = copied / "workflow" / "scripts", []
    expected = lineages(copied)

    def counted(script):
        hashed.append(script)
        return code_of(script)

    monkeypatch.setattr("mneme.core.lineage.code_of", counted)
    lineage = remembered(scripts, NEEDS)
    assert {phase: lineage(rule) for phase, rule in HEADLINES.items()} == expected
    assert len(hashed) == len(set(hashed)) > len(HEADLINES)


def test_an_edit_upstream_makes_every_headline_below_it_stale(copied, monkeypatch):
    monkeypatch.setattr("mneme.core.code.LIBRARY", copied / "src" / "mneme")
    before = lineages(copied)
    own = {phase: code_of(copied / f"workflow/scripts/{r}.py") for phase, r in HEADLINES.items()}
    mixer = copied / "src/mneme/routing/mixer.py"
    text = mixer.read_text()
    headlines = {phase: {"code": code} for phase, code in before.items()}
    try:
        mixer.write_text(text + "\n# a comment\n")
        assert lineages(copied) == before
        mixer.write_text(text + "\nEDITED = 1\n")
        assert code_of(copied / "workflow/scripts/hysteresis.py") == own["hysteresis"]
        with pytest.raises(ValueError, match=r"^mixer.json, hysteresis.json, fatigue.json: stale"):
            refuse_stale(headlines, lineages(copied))
    finally:
        mixer.write_text(text)
    refuse_stale(headlines, lineages(copied))


def test_published_figures_agree_with_one_another():
    def flat(source):
        blocks = [figures.get(source, {}) for figures in PUBLISHED.values()]
        return {key: value for block in blocks for key, value in block.items()}

    for source, total in (("mistral_7b_fast", 82.5), ("suite_example", 256.8)):
        times = {k: v for k, v in flat(source).items() if k.startswith("timing.")}
        assert times.pop("timing.total_sec") == total
        assert len(times) == 5
        assert sum(times.values()) == pytest.approx(total, abs=0.05)
    fatigue = PUBLISHED["fatigue"]["mistral_7b_fast"]
    x, y = fatigue["dwell_tokens"], fatigue["deep_crystallization_ratio"]
    r, p = pearsonr(x, y)
    assert r == pytest.approx(fatigue["correlations.deep_crystallization"], abs=2e-4)
    assert p == pytest.approx(fatigue["correlations.deep_crystallization_p"], abs=5e-3)
    assert sum(y) / 3 == pytest.approx(fatigue["summary.avg_deep_crystallization"], abs=5e-4)
    undefined = [
        k for block in PUBLISHED.values() for s in block.values() for k in s if s[k] is None
    ]
    assert undefined == ["correlations.switch_lag"]
    assert fatigue["correlations.switch_lag_reason"]


def test_params_hold_plain_strings_only():
    class Path(str):
        """A string that carries more along, as Snakemake's do."""

    block = canonical({"logs": [Path("a"), {"b": Path("c")}]})
    assert [type(block["logs"][0]), type(block["logs"][1]["b"])] == [str, str]


def test_a_mistake_ends_snakemake_with_its_sentence_and_nothing_else():
    assert or_exit(max, 1, 2) == 2
    with pytest.raises(SystemExit) as end:
        or_exit(lambda: build(Block, {"nobody": 1}, where="config"))
    assert str(end.value).startswith("ConfigError: ")
    assert end.value.__suppress_context__
    with pytest.raises(ZeroDivisionError):  # a mistake of ours keeps its traceback
        or_exit(divmod, 1, 0)


def test_a_results_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    require_writable(tmp_path / "new" / "folder", "results")  # made where nothing is yet
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write wherever a disk allows it
    sentence = rf"config.results must be a folder that can be written \({tmp_path} cannot"
    with pytest.raises(ConfigError, match=sentence):
        require_writable(tmp_path / "new" / "folder", "results")
