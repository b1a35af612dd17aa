"""What each phase's headline file has to hold: the table, the schemas made of it, real files."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
from headline_files import headline, row, whole
from jsonschema import Draft202012Validator

from mneme.core.artefacts import read_json
from mneme.core.headline import read_headline
from mneme.report.schema import phase_schema, validate
from mneme.rooms import HEADLINES

ROOT = Path(__file__).parents[2]
TABLE = read_json(ROOT / "src/mneme/report/schemas/contents.json")
ORIGINAL = {"rows": [], "published_keys": {}}


@pytest.fixture
def hysteresis():
    return headline("hysteresis", whole("hysteresis", {"original": copy.deepcopy(ORIGINAL)}))


def without(file, run, metric):
    block = file["runs"][run]
    block["rows"] = [r for r in block["rows"] if r["metric"] != metric]


def test_every_headline_file_has_an_entry_with_a_metric_or_a_key():
    assert set(TABLE) == {*HEADLINES, "claims"}
    for phase, runs in TABLE.items():
        assert any(held.get("metrics") or held.get("keys") for held in runs.values()), phase


@pytest.mark.parametrize("phase", TABLE)
def test_an_entry_becomes_a_valid_schema_that_refuses_an_empty_run(phase):
    schema = phase_schema(phase)
    Draft202012Validator.check_schema(schema)
    json.dumps(schema, allow_nan=False)
    with pytest.raises(ValueError, match=rf"{phase}.json breaks the headline schema at \$.runs"):
        validate(headline(phase, {"x": {"rows": []}}), "headline", name=f"{phase}.json")
    for runs in TABLE[phase]:
        re.compile(runs)
        assert set(TABLE[phase][runs]) <= {"metrics", "keys"}


def test_a_whole_file_passes(hysteresis):
    validate(hysteresis, "headline", name="hysteresis.json")


@pytest.mark.parametrize(
    ("run", "metric"),
    [
        ("ours", "return_gap_cosine"),
        ("aa", "return_gap_cosine"),
        ("reset", "switch_lag_BA"),
        ("ours", "mix_entropy"),
    ],
)
def test_a_missing_metric_is_named_with_its_run(hysteresis, run, metric):
    without(hysteresis, run, metric)
    validate(hysteresis, "frame", name="hysteresis.json")
    sentence = rf"hysteresis.json .* at \$.runs.{run}.rows: no row of {metric}$"
    with pytest.raises(ValueError, match=sentence):
        validate(hysteresis, "headline", name="hysteresis.json")


def test_a_metric_must_match_as_a_whole(hysteresis):
    for one in hysteresis["runs"]["aa"]["rows"]:
        one["metric"] = one["metric"].replace("switch_lag_BA", "switch_lag_BA_median")
    with pytest.raises(ValueError, match=r"no row of switch_lag_BA$"):
        validate(hysteresis, "headline", name="hysteresis.json")


@pytest.mark.parametrize("run", ["aa", "ours", "original", "token", "shuffled_b"])
def test_a_missing_run_is_named(hysteresis, run):
    del hysteresis["runs"][run]
    validate(hysteresis, "frame", name="hysteresis.json")
    with pytest.raises(ValueError, match=rf"hysteresis.json .* at \$.runs: no run {run}$"):
        validate(hysteresis, "headline", name="hysteresis.json")


def test_a_missing_key_is_named(hysteresis):
    del hysteresis["runs"]["original"]["published_keys"]
    with pytest.raises(ValueError, match="'published_keys' is a required property"):
        validate(hysteresis, "headline", name="hysteresis.json")


def test_further_runs_and_rows_are_welcome(hysteresis):
    hysteresis["runs"]["probe"]["rows"].append(row("anything", 1.0))
    hysteresis["runs"]["a_new_control"] = copy.deepcopy(hysteresis["runs"]["aa"])
    validate(hysteresis, "headline", name="hysteresis.json")
    hysteresis["runs"]["an_empty_one"] = {"rows": []}
    with pytest.raises(ValueError, match=r"\$.runs.an_empty_one.rows: no row of"):
        validate(hysteresis, "headline", name="hysteresis.json")


@pytest.mark.parametrize("phase", [*HEADLINES, "claims"])
def test_the_runs_of_the_kept_default_run_are_those_of_the_table(phase):
    """The snapshot is cut to the rows that tables show, not to fewer runs."""
    runs = read_headline(ROOT / "docs" / "results" / f"{phase}.json")["runs"]
    for pattern in TABLE[phase]:
        assert any(re.fullmatch(pattern, run) for run in runs), pattern
