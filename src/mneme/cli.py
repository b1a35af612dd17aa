"""Command line: `mneme config` explains every key, `mneme summary` prints the headline values."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from mneme.core.artefacts import read_json
from mneme.core.config import ConfigError, KeyDoc, describe, plain
from mneme.core.workflow import merge
from mneme.report.summary import original_table, table
from mneme.settings import Settings, load_settings

BASE = (Path("config/assets.yaml"), Path("config/config.yaml"))
"""What the Snakefile reads before any overlay."""


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
    config.add_argument(
        "--configfile", nargs="+", default=[], metavar="F", help=f"overlays over {BASE[-1]}"
    )
    config.set_defaults(run=explain_config)
    summary = commands.add_parser("summary", help="print the headline values of a results folder")
    summary.add_argument("results", metavar="RESULTS_DIR")
    summary.add_argument("--all", action="store_true", help="controls and curves too")
    summary.set_defaults(run=show_summary)
    return parser


def show_summary(arguments: argparse.Namespace) -> str:
    """Return the tables of `RESULTS_DIR/summary.json`: headline values, run `original`."""
    summary = read_json(Path(arguments.results) / "summary.json")
    parts = (table(summary, all_rows=arguments.all), original_table(summary))
    return "\n\n".join(filter(None, parts))


def explain_config(arguments: argparse.Namespace) -> str:
    """Return name, type, value and meaning of every key at or below `prefix`.

    Raises
    ------
    ConfigError
        The configuration is wrong, or no key has that name.
    """
    config: dict[str, Any] = {}
    for path in [*BASE, *arguments.configfile]:
        config = merge(config, _read_yaml(Path(path)))
    values = plain(load_settings(config))
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


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: run mneme in the clone's root folder") from None
    except yaml.YAMLError as error:
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
