"""Params of rules, merged configurations, and the commit of a clone."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st
from snakemake.utils import update_config

from mneme.core.code import code_of, packages_of
from mneme.core.workflow import canonical, commit_of, merge, stage_params


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
