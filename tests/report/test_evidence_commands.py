"""Commands over finished results: claims, compare, snapshot, answers; and the ledger in config/."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import html_results
import pytest
import yaml

from mneme.cli import MARKS, main
from mneme.core.artefacts import read_json, write_json
from mneme.core.config import build
from mneme.core.lineage import lineages
from mneme.report.claims import decide
from mneme.report.claims_config import ClaimConfig
from mneme.report.snapshot import compact_svg, snapshot
from mneme.rooms import HEADLINES, needs_of

ROOT = Path(__file__).parents[2]
LEDGER = yaml.safe_load((ROOT / "config/claims.yaml").read_text())["claims"]
COMMIT = {"commit": "1234567" + "0" * 33, "dirty": False, "reason": None}


@pytest.fixture
def folder(tmp_path):
    """Results of a run that has every headline file, with claims."""
    files = html_results.headlines()
    for phase in HEADLINES:
        files.setdefault(phase, html_results.headline(phase, {"ours": {"rows": []}}))
    summary = {**html_results.summary(files), "commit": COMMIT}
    for phase, contents in {**files, "summary": summary}.items():
        write_json(tmp_path / "results" / f"{phase}.json", contents)
    (tmp_path / "results" / "hysteresis.svg").write_text(html_results.SVG)
    return tmp_path / "results"


def test_claims_are_printed_with_the_place_of_the_report(folder, capsys):
    assert main(["claims", str(folder)]) == 0
    assert "Report:" not in capsys.readouterr().out
    (folder / "report.html").write_text("")
    assert main(["claims", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith(f"Report: {folder / 'report.html'}\n")
    assert re.search(r"\d+ claims?: ", shown)
    assert "\x1b" not in shown  # no terminal, no colours


def test_a_snapshot_keeps_what_a_claim_rests_on_and_nothing_else(folder, tmp_path, capsys):
    path = folder / "hysteresis.json"
    hysteresis = read_json(path)
    claims = read_json(folder / "claims.json")
    named = "lag_nobody_shows"
    first = next(c for c in claims["runs"].values() if c["effects"])
    first["effects"][0]["address"] = f"hysteresis ours {named}"
    first["original_address"] = "hysteresis ours lag_beside_the_published"
    write_json(folder / "claims.json", claims)
    one, other = html_results.row(named, 1.5), html_results.row("not_asked_for", 2.0)
    published = html_results.row("lag_beside_the_published", 9.0)
    hysteresis["runs"]["ours"]["rows"] = [one, {**one, "seed": 3}, other, published]
    hysteresis["runs"]["ours"] |= {"bands": list(range(1000)), "information": "the past"}
    hysteresis["provenance"]["backbone"] = {"key": "tiny", "name": "tiny-lm", "revision": None}
    write_json(path, hysteresis)
    assert main(["snapshot", str(folder), str(tmp_path / "kept")]) == 0
    kept = read_json(tmp_path / "kept" / "hysteresis.json")
    assert kept["runs"]["ours"] == {
        "rows": [one, {**one, "seed": 3}, published],
        "information": "the past",
    }
    assert kept["code"] == hysteresis["code"]
    assert read_json(tmp_path / "kept" / "claims.json") == claims
    assert (tmp_path / "kept" / "hysteresis.svg").read_text() == html_results.SVG
    measured = read_json(tmp_path / "kept" / "measured.json")
    assert {room["commit"] for room in measured.values()} == {COMMIT["commit"]}
    notes = {name: room["note"] for name, room in measured.items()}
    assert notes == {"routing": "tiny-lm, a processor", "zeta": "tiny-lm, a processor"}
    assert {room["size"] for room in measured.values()} == {"default"}
    assert set(measured) == {claim["room"] for claim in claims["runs"].values()}
    assert "figures in" in capsys.readouterr().out


def test_a_kept_figure_is_the_same_to_a_thousandth_of_a_point():
    text = """<svg>
  <defs> <path id="m" d="M 0 3.123456
L -1.0000004 2 z"/></defs>
  <use xlink:href="#m" x="968.992823" y="-4.5" style="width: 1.23456"/>
  <image xlink:href="data:image/png;base64,  AAAA"/>
  <text style="font: 8px 'DejaVu Sans', 'Lucid', 'Arial', sans-serif" x="1.00049">  0.12345 </text>
</svg>"""
    assert compact_svg(text) == (
        '<svg>\n<defs>\n<path id="m" d="M 0 3.123 L -1.000 2 z"/></defs>\n'
        '<use xlink:href="#m" x="968.993" y="-4.5" style="width: 1.23456"/>\n'
        '<image xlink:href="data:image/png;base64,  AAAA"/>\n'
        """<text style="font: 8px 'DejaVu Sans', sans-serif" x="1.000">  0.12345 </text>\n</svg>"""
    )
    assert compact_svg(compact_svg(text)) == compact_svg(text)


def test_a_run_of_uncommitted_code_is_not_kept(folder, tmp_path, capsys):
    summary = read_json(folder / "summary.json")
    write_json(folder / "summary.json", {**summary, "commit": {**COMMIT, "dirty": True}})
    assert main(["snapshot", str(folder), str(tmp_path / "kept")]) == 1
    assert "uncommitted changes: commit them" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()
    with pytest.raises(ValueError, match=r"claims\.json is missing"):
        snapshot({}, summary, size="long")


@pytest.fixture
def later(folder, tmp_path, monkeypatch):
    """A snapshot of a whole run in `kept`; returns a later run of room `lattice` alone."""
    written = read_json(folder / "claims.json")
    claims = {name: build(ClaimConfig, one, where=name) for name, one in LEDGER.items()}
    files = {phase: read_json(folder / f"{phase}.json") for phase in HEADLINES}
    write_json(folder / "claims.json", {**written, "runs": decide(claims, files)})
    assert main(["snapshot", str(folder), str(tmp_path / "kept")]) == 0
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("mneme.cli.commit_of", lambda _: {**COMMIT, "commit": "7" * 40})
    path = tmp_path / "results" / "long"
    gap = html_results.row("eight_gap", 0.2, low=0.15, high=0.25, n=8)
    rows = [gap, {**gap, "seed": 1}, html_results.row("not_asked_for", 1.0)]
    runs = {f"{teacher}_raw": {"rows": rows} for teacher in ("smollm2_135m", "minilm")}
    code = lineages("workflow/scripts", needs_of(embedded=True))("lattice")
    write_json(path / "lattice.json", {**html_results.headline("lattice", runs), "code": code})
    for log, name in (("lattice_fit/minilm/adapter", "a GPU"), ("mdn", "a processor")):
        write_json(path / f"logs/{log}.json", {"device": "d", "device_name": name})
    for name in ("lattice", "mdn"):
        (path / f"{name}.svg").write_text(name)
    return path


def test_a_room_of_a_snapshot_is_replaced_and_all_is_judged_again(later, tmp_path, capsys):
    kept = tmp_path / "kept"
    before = {path.stem: read_json(path) for path in kept.glob("*.json")}
    assert before["claims"]["runs"]["teacher_relates"]["verdict"] == "not measured"
    assert main(["snapshot", str(later), str(kept), "--room", "lattice"]) == 0
    after = {path.stem: read_json(path) for path in kept.glob("*.json")}
    assert {name for name in after if after[name] != before[name]} == {
        "lattice",
        "claims",
        "measured",
    }
    rows = after["lattice"]["runs"]["minilm_raw"]["rows"]
    assert [(row["metric"], row["seed"]) for row in rows] == [("eight_gap", None), ("eight_gap", 1)]
    claims = after["claims"]["runs"]
    changed = {name for name in claims if claims[name] != before["claims"]["runs"][name]}
    assert {claims[name]["room"] for name in changed} == {"lattice"}
    assert claims["teacher_relates"]["verdict"] == "supported"
    assert after["measured"].pop("lattice") == {
        "commit": "7" * 40,
        "note": "a GPU",
        "size": "long",
    }
    assert after["measured"].items() < before["measured"].items()
    assert (kept / "lattice.svg").read_text() == "lattice"
    assert not (kept / "mdn.svg").exists()


def test_a_room_of_other_or_uncommitted_code_is_not_kept(later, tmp_path, capsys, monkeypatch):
    kept = tmp_path / "kept"
    before = (kept / "lattice.json").read_text()
    command = ["snapshot", str(later), str(kept), "--room"]
    with monkeypatch.context() as patch:
        patch.setattr("mneme.cli.commit_of", lambda _: {**COMMIT, "dirty": True})
        assert main([*command, "lattice"]) == 1
    assert "uncommitted changes" in capsys.readouterr().err
    assert main([*command, "ttt"]) == 1
    assert "ttt_model.json" in capsys.readouterr().err
    stale = {**read_json(later / "lattice.json"), "code": "0" * 16}
    write_json(later / "lattice.json", stale)
    assert main([*command, "lattice"]) == 1
    assert "lattice.json: stale" in capsys.readouterr().err
    assert (kept / "lattice.json").read_text() == before


def test_answers_go_between_the_marks(folder, tmp_path, capsys):
    kept = tmp_path / "kept"
    main(["snapshot", str(folder), str(kept)])
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    capsys.readouterr()
    assert main(["answers", str(kept), "--write", str(readme)]) == 0
    assert main(["answers", str(kept)]) == 0
    table = capsys.readouterr().out.partition("\n")[2].rstrip("\n")
    text = readme.read_text()
    assert text == f"before\n{MARKS[0]}\n\n{table}\n\n{MARKS[1]}\nafter\n"
    assert "1234567" in text
    assert main(["answers", str(kept), "--write", str(readme)]) == 0
    assert readme.read_text() == text
    readme.write_text("no marks\n")
    assert main(["answers", str(kept), "--write", str(readme)]) == 1
    assert "must hold <!-- answers" in capsys.readouterr().err
    assert readme.read_text() == "no marks\n"


def test_two_folders_are_compared_and_the_table_is_written(folder, tmp_path, capsys):
    other = tmp_path / "other"
    for path in folder.glob("*.json"):
        content = copy.deepcopy(read_json(path))
        if path.stem == "summary":
            content["model_name"] = "gpt2"
        write_json(other / path.name, content)
    assert main(["compare", str(folder), str(other)]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith(f"Written to {other / 'compare.md'}\n")
    assert "gpt2" in (other / "compare.md").read_text()
    for pair, sentence in (
        ([folder, folder], "are one folder: name two"),
        ([folder, tmp_path], "has no summary.json: run snakemake there first"),
    ):
        assert main(["compare", *map(str, pair)]) == 1
        assert sentence in capsys.readouterr().err


def test_the_ledger_is_sound():
    claims = {name: build(ClaimConfig, one, where=name) for name, one in LEDGER.items()}
    assert {claim.room for claim in claims.values()} == {"routing", "ttt", "zeta", "lattice"}
    assert {claim.source for claim in claims.values()} == {1, 2, 3, 4, 5}
    decided = decide(claims, {})
    for name, claim in claims.items():
        expected = "not testable as stated" if claim.untestable else "not measured"
        assert decided[name]["verdict"] == expected
    statements = [claim.statement for claim in claims.values()]
    assert len(set(statements)) == len(statements)


@pytest.mark.parametrize("name", sorted(LEDGER))
def test_a_claim_takes_little_room(name):
    claim = LEDGER[name]
    assert len(claim["statement"]) <= 130
    assert len(claim["note"]) <= 260
    assert "—" not in json.dumps(claim, ensure_ascii=False)
