"""The README shows the snapshot in docs/results; verdicts follow from the rows kept there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mneme.cli import MARKS
from mneme.core.artefacts import read_json
from mneme.core.config import build
from mneme.core.headline import read_headline
from mneme.report.claims import decide
from mneme.report.claims_config import ClaimConfig
from mneme.report.claims_table import answers_markdown
from mneme.report.summary import validate
from mneme.rooms import HEADLINES

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs" / "results"


@pytest.fixture(scope="module")
def kept():
    return {phase: read_headline(KEPT / f"{phase}.json") for phase in (*HEADLINES, "claims")}


def test_the_readme_shows_the_snapshot(kept):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(f"{re.escape(MARKS[0])}(.*){re.escape(MARKS[1])}", text, re.S)
    measured = read_json(KEPT / "measured.json")
    table = answers_markdown(kept["claims"], measured)
    assert shown.strip() == table.strip(), "run: mneme answers --write README.md"
    for room in measured.values():  # code may have moved on since: the commit says what was run
        assert re.fullmatch("[0-9a-f]{40}", room["commit"])
        assert room["commit"] in shown


def test_the_snapshot_has_the_frame_and_single_seeds_of_claims_only(kept):
    claims = kept["claims"]["runs"].values()
    named = {e["address"] for c in claims for e in (*c["effects"], *c["positives"], *c["nulls"])}
    named |= {claim["original_address"] for claim in claims}
    for phase, content in kept.items():
        validate(content, "frame", name=f"{phase}.json")
        for run, block in content["runs"].items():
            single = {r["metric"] for r in block["rows"] if r["seed"] is not None}
            assert {f"{phase} {run} {metric}" for metric in single} <= named


def test_its_verdicts_follow_from_its_rows(kept):
    ledger = yaml.safe_load((ROOT / "config/claims.yaml").read_text(encoding="utf-8"))["claims"]
    claims = {name: build(ClaimConfig, one, where=name) for name, one in ledger.items()}
    assert set(claims) == set(kept["claims"]["runs"]), "the ledger has changed: make it again"
    rows = {phase: content for phase, content in kept.items() if phase != "claims"}
    for name, block in decide(claims, rows).items():
        told = kept["claims"]["runs"][name]
        for key in ("statement", "published", "verdict", "detail", "p", "p_holm", "rows"):
            assert block[key] == told[key], (name, key)


def test_the_snapshot_is_small():
    files = [path for path in KEPT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8e6


def test_only_what_other_sizes_run_is_not_measured(kept):
    """A mistyped run or metric of the ledger would be "not measured" too."""
    open_ = {n for n, c in kept["claims"]["runs"].items() if c["verdict"] == "not measured"}
    in_long = {"ttt_beats_window_at_equal_time"}
    assert open_ <= in_long | {"eight_billion"}
