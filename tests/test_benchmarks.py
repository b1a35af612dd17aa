"""Benchmarks do the work that they are said to do: the pipeline's, all of it, on small models."""

from __future__ import annotations

import re
import runpy
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from mneme.routing.contexts import FURTHER_CONTEXTS, wanted_contexts
from mneme.settings import load_settings

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
PARTS = {"harness", "subjects", "suite_plan"}
"""Files that the others import."""


@pytest.fixture(autouse=True)
def _on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in [*PARTS, "suite", "protocol"]:
        sys.modules.pop(name, None)


@pytest.fixture(name="routing", scope="module")
def _routing():
    files = [ROOT / "config" / name for name in ("config.yaml", "assets.yaml", "claims.yaml")]
    parts = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in files]
    return load_settings({k: v for part in parts for k, v in part.items()}).routing


def test_make_bench_runs_every_benchmark():
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (listed,) = re.findall(r"^BENCHMARKS := (.+)$", text, re.M)
    assert set(listed.split()) == {path.stem for path in BENCHMARKS.glob("*.py")} - PARTS


def test_the_protocol_reads_what_the_pipeline_reads_with_one_mixer(routing):
    names = runpy.run_path(str(BENCHMARKS / "protocol.py"))
    phases = names["make_phases"]((16, 24, 64))
    lengths = {"hysteresis": {64}, "fatigue": {16, 24, 64}}
    wanted = {
        f"{phase}/ours/{context}/{n}"
        for phase, further in FURTHER_CONTEXTS.items()
        for context in wanted_contexts(routing.runs, further)["ours"]
        for n in lengths[phase]
    }
    assert names["readings"](phases) == wanted
    assert {"hysteresis/ours/mixed/64", "hysteresis/ours/repeated/64"} <= wanted


def test_the_suite_runs_with_every_mixer_that_a_run_reads(routing, tmp_path):
    import suite
    import suite_plan

    options = Namespace(
        backbone="tiny",
        device="cpu",
        dtype=None,
        quick=True,
        tuples=None,
        batch=None,
        random_tokens=True,
    )
    plan = suite_plan.make_plan(options, suite_plan.read_settings(None), tmp_path)
    assert set(plan.mixers) == {run.mixer for run in routing.runs.values()} > {"ours", "token"}
    assert plan.routing.runs.keys() == routing.runs.keys()
    phases, facts = suite.suite(plan)
    assert [phase.name for phase in phases] == [
        *("load", "prepare", "adapters", "states", "calibration"),
        *("hysteresis_trace", "hysteresis_metrics", "fatigue_trace", "fatigue_metrics"),
    ]
    assert facts["fingerprints"].keys() == {"backbone", "adapters", "hysteresis", "fatigue"}
    assert suite_plan.settings_of(plan)["mixers"].keys() == set(plan.mixers)
