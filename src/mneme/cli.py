"""Command line: explains keys, prints values and verdicts, compares runs, talks to one."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from mneme import cli_chat
from mneme.core.artefacts import ArtefactError, read_json, read_text, write_json, write_text
from mneme.core.config import ConfigError, KeyDoc, describe, plain
from mneme.core.headline import read_headline
from mneme.core.lineage import lineages
from mneme.core.workflow import commit_of, merge
from mneme.report.claims_table import answers_markdown, render_claims
from mneme.report.summary import original_table, table
from mneme.rooms import HEADLINES, ROOMS, needs_of, phases_of
from mneme.settings import Settings, load_settings

BASE = (Path("config/assets.yaml"), Path("config/claims.yaml"), Path("config/config.yaml"))
"""What the Snakefile reads before any overlay."""
MARKS = ("<!-- answers: made by `mneme answers --write README.md` -->", "<!-- end of answers -->")
"""Between them stands the answer table."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        print(arguments.run(arguments), flush=True)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ValueError as error:
        print(f"mneme: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mneme", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    config = commands.add_parser("config", help="explain every key: type, value, meaning")
    config.add_argument("prefix", nargs="?", default="", help="only keys below this dotted name")
    config.set_defaults(run=explain_config)
    summary = commands.add_parser("summary", help="print the headline values of a results folder")
    summary.add_argument("results", metavar="RESULTS_DIR")
    summary.add_argument("--all", action="store_true", help="controls and curves too")
    summary.set_defaults(run=show_summary)
    _add_evidence(commands)
    chat = commands.add_parser("chat", help="talk with a fitted run, which learns from the talk")
    cli_chat.add_options(chat)
    chat.set_defaults(run=lambda told: cli_chat.talk(told, _configuration(told.configfile)))
    for command in (config, chat):
        command.add_argument(
            "--configfile", nargs="+", default=[], metavar="F", help=f"overlays over {BASE[-1]}"
        )
    return parser


def _add_evidence(commands: Any) -> None:
    claims = commands.add_parser("claims", help="print the verdict on every claim")
    claims.add_argument("results", metavar="RESULTS_DIR")
    claims.set_defaults(run=show_claims)
    compare = commands.add_parser("compare", help="set two results folders side by side")
    compare.add_argument("a", metavar="RESULTS_A")
    compare.add_argument("b", metavar="RESULTS_B", help="of another backbone or size")
    compare.add_argument(
        "--output", metavar="F", help="Markdown to write; default RESULTS_B/compare.md"
    )
    compare.set_defaults(run=show_comparison)
    snapshot = commands.add_parser("snapshot", help="keep a finished run in docs/results")
    snapshot.add_argument("results", metavar="RESULTS_DIR")
    snapshot.add_argument("target", nargs="?", default="docs/results", metavar="TARGET_DIR")
    snapshot.add_argument("--room", choices=ROOMS, help="only this room's files; judge anew")
    snapshot.set_defaults(run=keep_snapshot)
    answers = commands.add_parser("answers", help="print the README's answer table")
    answers.add_argument("snapshot", nargs="?", default="docs/results", metavar="SNAPSHOT_DIR")
    answers.add_argument("--write", metavar="F", help="put it between the marks of this file")
    answers.set_defaults(run=show_answers)


def show_summary(arguments: argparse.Namespace) -> str:
    """Return the tables of `RESULTS_DIR/summary.json`: headline values, run `original`."""
    summary = read_json(Path(arguments.results) / "summary.json")
    parts = (table(summary, all_rows=arguments.all), original_table(summary))
    return "\n\n".join(filter(None, parts))


def show_claims(arguments: argparse.Namespace) -> str:
    """Return the claims table of `RESULTS_DIR`, and where the report is."""
    folder = Path(arguments.results)
    claims = read_headline(folder / "claims.json")
    width = shutil.get_terminal_size((100, 24)).columns
    text = render_claims(claims, width=width, colour=sys.stdout.isatty())
    report = folder / "report.html"
    return f"{text}\nReport: {report}" if report.is_file() else text


def show_comparison(arguments: argparse.Namespace) -> str:
    """Compare two folders; writes the tables as Markdown and returns them for the terminal."""
    from mneme.report.compare import compare
    from mneme.report.compare_table import compare_markdown, render_compare

    folders = [Path(arguments.a), Path(arguments.b)]
    for folder in folders:
        if not (folder / "summary.json").is_file():
            raise ArtefactError(f"{folder} has no summary.json: run snakemake there first")
    if folders[0].resolve() == folders[1].resolve():
        raise ArtefactError(f"{folders[0]} and {folders[1]} are one folder: name two")
    found = compare(*({path.stem: read_json(path) for path in _jsons(f)} for f in folders))
    output = Path(arguments.output or folders[1] / "compare.md")
    write_text(output, compare_markdown(found))
    return f"{render_compare(found)}\n\nWritten to {output}"


def keep_snapshot(arguments: argparse.Namespace) -> str:
    """Write a cut-down copy of a finished run, and its figures, into a folder of the repository."""
    from mneme.report.snapshot import compact_svg, snapshot

    source, target = Path(arguments.results), Path(arguments.target)
    size = "default" if source.name == "results" else source.name
    figures = [path for path in sorted(source.glob("*.svg")) if not path.name.startswith(".")]
    if arguments.room:
        kept = _with_room(arguments.room, source, target, size)
        phases = phases_of(arguments.room)
        figures = [f for f in figures if any(f"{f.stem}_".startswith(f"{p}_") for p in phases)]
    else:
        summary = read_json(source / "summary.json")
        phases = [*HEADLINES, "claims"]
        kept = snapshot(_headlines(source, phases), summary, size=size)
    for name, contents in kept.items():
        write_json(target / f"{name}.json", contents)
    for figure in figures:
        write_text(target / figure.name, compact_svg(read_text(figure)))
    return f"{len(kept)} files and {len(figures)} figures in {target}"


def _with_room(room: str, source: Path, target: Path, size: str) -> dict[str, dict[str, Any]]:
    """Return the snapshot in `target` with one room of the results in `source`, judged anew.

    Raises
    ------
    ValueError
        The room's files were made by other code than that of this clone, or uncommitted code.
    """
    from mneme.report.snapshot import with_room
    from mneme.report.summary import refuse_stale

    fresh = _headlines(source, phases_of(room))
    codes = [lineages("workflow/scripts", needs_of(embedded=one)) for one in (True, False)]
    present = [{phase: code(HEADLINES[phase]) for phase in fresh} for code in codes]
    found = {phase: headline["code"] for phase, headline in fresh.items()}
    refuse_stale(fresh, found if found in present else present[0])
    logs = source / "logs"
    records = [
        read_json(path)
        for path in sorted(logs.rglob("*.json"))
        if path.relative_to(logs).parts[0].removesuffix(".json") in ROOMS[room]
    ]
    devices = dict.fromkeys(r["device_name"] or r["device"] for r in records if r["device"])
    return with_room(
        room,
        fresh,
        {
            **_headlines(target, [*HEADLINES, "claims"]),
            "measured": read_json(target / "measured.json"),
        },
        ledger=load_settings(_configuration([])).claims,
        commit=commit_of("."),
        size=size,
        device=", ".join(devices),
    )


def _headlines(folder: Path, phases: Sequence[str]) -> dict[str, Any]:
    return {phase: read_headline(folder / f"{phase}.json") for phase in phases}


def show_answers(arguments: argparse.Namespace) -> str:
    """Return the answer table of a snapshot; `--write` puts it into a file."""
    folder = Path(arguments.snapshot)
    table = answers_markdown(
        read_headline(folder / "claims.json"), read_json(folder / "measured.json")
    )
    if arguments.write is None:
        return table
    path = Path(arguments.write)
    parts = re.split(f"({re.escape(MARKS[0])}.*{re.escape(MARKS[1])})", read_text(path), flags=re.S)
    if len(parts) != 3:
        raise ArtefactError(f"{path} must hold {MARKS[0]} and {MARKS[1]}, once each, in this order")
    write_text(path, f"{parts[0]}{MARKS[0]}\n\n{table}\n{MARKS[1]}{parts[2]}")
    return f"Written to {path}"


def _jsons(folder: Path) -> list[Path]:
    return [
        folder / f"{name}.json"
        for name in (*HEADLINES, "claims", "summary")
        if (folder / f"{name}.json").is_file()
    ]


def explain_config(arguments: argparse.Namespace) -> str:
    """Return name, type, value and meaning of every key at or below `prefix`.

    Raises
    ------
    ConfigError
        The configuration is wrong, or no key has that name.
    """
    values = plain(load_settings(_configuration(arguments.configfile)))
    wanted = _steps(arguments.prefix) if arguments.prefix else []
    docs = describe(Settings)
    blocks = {".".join(_steps(doc.key)[:n]) for doc in docs for n in range(len(_steps(doc.key)))}
    texts = [
        text
        for doc in docs
        for text in _explain(doc, values, wanted, is_block=".".join(_steps(doc.key)) in blocks)
    ]
    if not texts:
        raise ConfigError(f"no key is named {arguments.prefix!r}: `mneme config` lists all")
    return "\n".join(texts)


def _configuration(overlays: Sequence[str]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for path in [*BASE, *overlays]:
        config = merge(config, _read_yaml(Path(path)))
    return config


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: run mneme in the clone's root folder") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must be a block of keys, got {content!r}")
    return content


def _explain(doc: KeyDoc, values: Any, wanted: list[str], *, is_block: bool) -> Iterator[str]:
    """Yield the text of one key, with its value at every place where it stands."""
    steps = _steps(doc.key)
    places = [
        (".".join(place).replace(".[", "["), value)
        for place, value in _places(steps, values)
        if place[: len(wanted)] == wanted
    ]
    if not places and wanted != steps[: len(wanted)]:
        return
    yield f"{doc.key}  ({doc.type})"
    yield textwrap.indent(textwrap.fill(" ".join(doc.doc.split()), 92), "    ")
    if is_block:
        return
    shared = {json.dumps(value) for _, value in places}
    if len(shared) == 1:
        yield f"    = {shared.pop()}"
    else:
        yield from (f"    {place} = {json.dumps(value)}" for place, value in places)


def _steps(key: str) -> list[str]:
    return key.replace("[", ".[").split(".")


def _places(
    steps: list[str], value: Any, at: tuple[str, ...] = ()
) -> Iterator[tuple[list[str], Any]]:
    """Yield every concrete address of a described key with its value."""
    if not steps:
        yield list(at), value
    elif steps[0] == "[]":
        for index, item in enumerate(value):
            yield from _places(steps[1:], item, (*at, f"[{index}]"))
    elif steps[0] == "<name>":
        for name, item in value.items():
            yield from _places(steps[1:], item, (*at, name))
    elif value is not None:
        yield from _places(steps[1:], value[steps[0]], (*at, steps[0]))
