"""The summary gathers headline files, refuses stale ones, and keeps the source's keys."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys

import pytest
from headline_files import headline, row, whole

from mneme.core.artefacts import write_json
from mneme.report.summary import (
    HEADLINE_ROWS,
    original_table,
    refuse_stale,
    summarise,
    table,
    validate,
)


def step(name, seconds, memory=100.0, device="cpu", reason=None):
    return {
        "step": name,
        "seconds": seconds,
        "peak_memory_mb": memory,
        "device": device,
        "device_name": device,
        "reason": reason,
    }


STEPS = {
    "assets": [step("assets_fetch", None, None, None, "assets_fetch.json is missing")],
    "env": [step("env_check", 1.5, 250.0, None)],
    "hysteresis": [
        step("routing_trace/hysteresis", 40.0, 900.0),
        step("hysteresis", 2.25, device=None),
    ],
    "fatigue": [step("routing_trace/fatigue", 10.5), step("fatigue", None, None, None, "gone")],
}


ORIGINAL = {
    "rows": [row("switch_lag_BA", 9.0)],
    "published_keys": {
        "hysteresis": {"test_aba": {"switch_lag_AB": 0, "switch_lag_BA": 9}},
        "timing": {"phase5_hysteresis_sec": 15.25},
    },
}
OURS = {
    "rows": [
        row("switch_lag_BA", 5.5, low=4.0, high=7.0, n=50),
        row("switch_lag_BA", 5.0, seed=0),
        row("switch_lag_BA@0.99", 8.0),
        row("return_gap", None, reason="one text only"),
    ]
}
CONTROL = {"rows": [row("switch_lag_BA", 0.5, control_of="ours")]}


@pytest.fixture
def headlines():
    fatigue = {"rows": [], "published_keys": {"timing": {"phase6_fatigue_sec": 4.5}}}
    env = {"rows": [row("checks@pass", 9.0)], "checks": []}
    runs = copy.deepcopy({"original": ORIGINAL, "ours": OURS, "token": CONTROL})
    return {
        "env": headline("env", {"env": env}, device=None, peak_memory_mb=250.0),
        "hysteresis": headline("hysteresis", whole("hysteresis", runs)),
        "fatigue": headline("fatigue", whole("fatigue", {"original": fatigue}), seconds=2.0),
    }


BACKBONE = {"source": "hub", "name": "a/b", "revision": None, "init": "random", "dtype": "float32"}


def summary_of(headlines, **change):
    given = {
        "code": "b" * 16,
        "expected": dict.fromkeys(headlines, "a" * 16),
        "steps": STEPS,
        "published": {"suite_example": {"timing.total_sec": 256.8}},
        "backbone": BACKBONE,
        "config_hash": "c" * 16,
        "commit": {"commit": None, "dirty": None, "reason": "no git"},
    }
    return summarise(headlines, **{**given, **change})


def test_values_times_memory_and_provenance_are_gathered(headlines):
    summary = summary_of(headlines)
    value = summary["values"]["hysteresis"]["ours"]["switch_lag_BA"]
    assert value == {
        "value": 5.5,
        "low": 4.0,
        "high": 7.0,
        "n": 50,
        "unit": "tokens",
        "control_of": None,
        "reason": None,
    }
    assert summary["values"]["hysteresis"]["ours"]["return_gap"]["reason"] == "one text only"
    assert summary["values"]["hysteresis"]["token"]["switch_lag_BA"]["control_of"] == "ours"
    assert summary["seconds"] == 54.25
    assert summary["peak_memory_mb"] == 900.0
    assert summary["reason"] == "2 of 6 steps left no record: the others only"
    assert summary["device"] == "cpu"
    assert summary["versions"] == {"python": "3.11.7", "torch": "2.13.0"}
    assert summary["phases"]["hysteresis"]["published"]["gpt2"]
    assert summary["published"] == {"suite_example": {"timing.total_sec": 256.8}}
    assert summary["model_name"] == "a/b"
    assert summary["config_hash"] == "c" * 16
    validate(json.loads(json.dumps(summary, allow_nan=False)), "summary", name="summary.json")


def test_a_phases_cost_is_that_of_all_its_steps(headlines):
    phases = summary_of(headlines)["phases"]
    measured = phases["hysteresis"]
    assert (measured["seconds"], measured["peak_memory_mb"]) == (42.25, 900.0)
    assert (measured["device"], measured["reason"]) == ("cpu", None)
    assert [entry["step"] for entry in measured["steps"]] == [
        "routing_trace/hysteresis",
        "hysteresis",
    ]


def test_a_step_without_a_record_is_listed_with_its_reason(headlines):
    phases = summary_of(headlines)["phases"]
    assert phases["fatigue"]["seconds"] == 10.5
    assert phases["fatigue"]["reason"] == "1 of 2 steps left no record: the others only"
    assert phases["fatigue"]["steps"][1] == step("fatigue", None, None, None, "gone")
    assert phases["assets"]["seconds"] is None
    assert phases["assets"]["steps"][0]["reason"] == "assets_fetch.json is missing"
    assert "code" not in phases["assets"], "no headline file"


def test_a_step_without_a_record_needs_a_reason(headlines):
    steps = {**STEPS, "env": [step("env_check", None, None, None)]}
    with pytest.raises(ValueError, match=r"summary.json breaks the summary schema at .*env"):
        summary_of(headlines, steps=steps)


def test_the_sources_own_keys_stand_at_their_own_addresses(headlines):
    summary = summary_of(headlines)
    assert summary["hysteresis"] == {"test_aba": {"switch_lag_AB": 0, "switch_lag_BA": 9}}
    assert summary["timing"] == {
        "phase5_hysteresis_sec": 15.25,
        "phase6_fatigue_sec": 4.5,
        "total_sec": 19.75,
    }
    assert summary["torch_version"] == "2.13.0"


def test_versions_that_differ_between_phases_are_shown_not_hidden(headlines):
    headlines["env"]["provenance"]["versions"]["python"] = "3.12.1"
    assert summary_of(headlines)["versions"]["python"] == "3.12.1, 3.11.7"


def test_it_works_from_the_first_day_on(headlines):
    summary = summary_of({"env": headlines["env"]}, steps={"env": STEPS["env"]})
    assert summary["timing"] == {}
    assert summary["device"] is None
    assert summary["torch_version"] == "2.13.0"


def test_stale_headline_files_are_refused_by_name(headlines):
    expected = {"env": "a" * 16, "hysteresis": "d" * 16, "fatigue": "e" * 16}
    with pytest.raises(ValueError, match=r"^hysteresis.json, fatigue.json: stale, .* delete them"):
        summary_of(headlines, expected=expected)
    refuse_stale(headlines, dict.fromkeys(headlines, "a" * 16))


def test_phases_that_disagree_about_a_sources_key_are_refused(headlines):
    keys = headlines["fatigue"]["runs"]["original"]["published_keys"]
    keys["timing"]["phase5_hysteresis_sec"] = 1.0
    with pytest.raises(ValueError, match=r"timing.phase5_hysteresis_sec is 1.0 here and 15.25"):
        summary_of(headlines)


@pytest.mark.parametrize("key", ["phase", "values", "backbone"])
def test_a_sources_key_that_would_hide_one_of_ours_is_refused(headlines, key):
    headlines["fatigue"]["runs"]["original"]["published_keys"][key] = {"x": 1}
    with pytest.raises(ValueError, match=f"{key} is a key of the summary itself"):
        summary_of(headlines)


def test_a_metric_named_twice_is_refused(headlines):
    headlines["hysteresis"]["runs"]["ours"]["rows"].append(row("switch_lag_BA", 1.0))
    with pytest.raises(ValueError, match="run 'ours' names a metric twice"):
        summary_of(headlines)


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        (lambda h: h.pop("seconds"), "'seconds' is a required property"),
        (lambda h: h.update(extra=1), "extra"),
        (lambda h: h.update(code="xyz"), "code"),
        (lambda h: h.update(runs={}), "runs"),
        (lambda h: h["runs"].update({"Bad Name": {"rows": []}}), "Bad Name"),
        (lambda h: h["runs"]["ours"]["rows"][0].pop("seed"), "'seed' is a required property"),
        (lambda h: h["runs"]["ours"]["rows"][0].update(value="9"), "rows"),
        (lambda h: h["runs"]["ours"]["rows"][3].update(reason=None), "reason"),
        (lambda h: h["provenance"].pop("versions"), "versions"),
        (lambda h: h["provenance"].pop("inputs"), "inputs"),
        (lambda h: h["provenance"].update(backbone="tiny"), "backbone"),
    ],
)
def test_the_headline_schema_names_what_is_wrong(headlines, damage, where):
    good = headlines["hysteresis"]
    validate(good, "headline", name="hysteresis.json")
    damage(good)
    with pytest.raises(ValueError, match=r"hysteresis.json breaks the headline schema") as error:
        validate(good, "headline", name="hysteresis.json")
    assert where in str(error.value)


def test_the_table_shows_the_headline_rows_first(headlines):
    text = table(summary_of(headlines))
    lines = text.splitlines()
    assert " ".join(lines[0].split()) == "hysteresis ours switch_lag_BA 5.5 [4, 7] tokens n=50"
    assert lines[-1].endswith("more (other runs, controls, curves): add --all")
    every = table(summary_of(headlines), all_rows=True)
    assert "undefined (one text only)" in every
    assert "  token  " in every
    assert "  token  " not in text


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("model b loss@stage-plays", True),
        ("adapters sleep gain.one_b", True),
        ("adapters sleep forgetting.2nd_minus_none", True),
        ("mixer mixed held_out_loss.one_b_minus_known", True),
        ("mixer mixed held_out_loss.One", True),
        ("mixer mixed held_out_loss.one_minus_uniform", False),
        ("adapters none gain.one_minus_none", False),
    ],
)
def test_domains_of_any_name_are_in_the_table(address, shown):
    assert any(re.fullmatch(rows, address) for rows in HEADLINE_ROWS) is shown


def test_run_original_stands_beside_the_published_figures(headlines):
    keys = headlines["fatigue"]["runs"]["original"]["published_keys"]
    keys["fatigue"] = {
        "correlations": {"deep_crystallization": 0.5, "switch_lag": None},
        "tests": [{"tail_area_32": 1.25, "x": 1}, {"tail_area_32": 2.0, "x": 2}],
    }
    lines = original_table(summary_of(headlines)).splitlines()
    cells = [re.split(r" {2,}", line) for line in lines]
    assert cells == [
        ["original protocol", "here (first seed)", "Mistral-7B fast", "GPT-2"],
        ["hysteresis test_aba.switch_lag_AB", "0", "-", "-"],
        ["hysteresis test_aba.switch_lag_BA", "9", "9", "-"],
        ["fatigue correlations.deep_crystallization", "0.5", "-", "0.7381"],
        ["fatigue correlations.switch_lag", "undefined", "-", "-"],
        ["fatigue tests.tail_area_32", "1.25 / 2", "2.846 / 5.541", "-"],
        ["fatigue tests.x", "1 / 2", "-", "-"],
    ]
    assert {line[:43].rstrip() for line in lines} == {first for first, *_ in cells}


def test_without_run_original_there_is_no_second_table(headlines):
    summary = summary_of({"env": headlines["env"]}, steps={"env": STEPS["env"]})
    assert original_table(summary) == ""


def test_the_command_prints_the_table_without_torch(headlines, tmp_path):
    write_json(tmp_path / "summary.json", summary_of(headlines))
    program = (
        "import sys; from mneme.cli import main\n"
        f"status = main(['summary', {str(tmp_path)!r}])\n"
        "assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)\n"
        "sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert "5.5 [4, 7] tokens" in done.stdout
    assert "\n\noriginal protocol" in done.stdout


def test_the_command_says_what_to_do_without_results(tmp_path, capsys):
    from mneme.cli import main

    assert main(["summary", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert shown.err.endswith("summary.json is missing: run snakemake again to make it\n")
    assert shown.out == ""


@pytest.mark.parametrize("domain", ["python", "python3", "my_plays", "a_2"])
def test_domains_with_digits_and_underscores_are_in_the_table(domain):
    rows = {
        "model": [f"loss@{domain}"],
        "adapters": [f"gain.{domain}", f"forgetting.{domain}", f"forgetting.{domain}_minus_none"],
        "mixer": [
            f"held_out_loss.{domain}",
            f"held_out_loss.{domain}_minus_base",
            f"held_out_loss.{domain}_minus_uniform",
        ],
    }
    run = {"model": "tiny", "adapters": "sleep", "mixer": "mixed"}
    shown = {
        metric
        for phase, metrics in rows.items()
        for metric in metrics
        if any(re.fullmatch(known, f"{phase} {run[phase]} {metric}") for known in HEADLINE_ROWS)
    }
    left_out = f"held_out_loss.{domain}_minus_uniform"
    assert shown == {metric for metrics in rows.values() for metric in metrics} - {left_out}
