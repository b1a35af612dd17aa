"""Command line: `config` explains keys, `summary` prints headline values, `chat` talks to a run."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mneme.core.artefacts import ArtefactError, read_json, read_tensors, write_tensors
from mneme.core.config import ConfigError, KeyDoc, build, describe, plain
from mneme.core.workflow import merge
from mneme.report.summary import original_table, table
from mneme.settings import Settings, load_settings
from mneme.ttt.chat_config import ChatConfig
from mneme.ttt.config import RecipeConfig

if TYPE_CHECKING:
    import torch

    from mneme.ttt.chat import Chat
    from mneme.ttt.codec import Codec
    from mneme.ttt.model import TTTTransformer

BASE = (Path("config/assets.yaml"), Path("config/config.yaml"))
"""What the Snakefile reads before any overlay."""
_CONTROLS = dict.fromkeys({*range(0x20), *range(0x7F, 0xA0)} - set(map(ord, "\t\n")), "\ufffd")
"""Signs that would steer the terminal: a network may draw them, a reader sees U+FFFD."""


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
    chat = commands.add_parser("chat", help="talk with a fitted run, which learns from the talk")
    _add_chat_options(chat)
    chat.set_defaults(run=talk)
    for command in (config, chat):
        command.add_argument(
            "--configfile", nargs="+", default=[], metavar="F", help=f"overlays over {BASE[-1]}"
        )
    return parser


def _add_chat_options(chat: argparse.ArgumentParser) -> None:
    chat.add_argument("results", nargs="?", metavar="RESULTS_DIR", help="default: key `results`")
    chat.add_argument("--run", metavar="NAME", dest="name", help="default: key `ttt.chat.run`")
    chat.add_argument("--seed", type=int, default=0, metavar="N", help="weights, draws; default 0")
    chat.add_argument("--adapter", metavar="PATH", help="folder of a TinyLoRA adapter to talk with")
    chat.add_argument("--no-ttt", action="store_true", help="fast weights stay as they are")
    chat.add_argument("--load", metavar="PATH", help="go on from what /save wrote")
    chat.add_argument("--temperature", type=float, metavar="X", help="0 takes the likeliest token")


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


def talk(arguments: argparse.Namespace) -> str:
    """Hold a conversation on the terminal until Ctrl-D or Ctrl-C.

    Raises
    ------
    ValueError
        A file is missing or does not fit, or the configuration is wrong: nothing was said yet.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (lets `input` edit the line)
    # What a terminal cannot show, and bytes that are no text, must not end the talk.
    for stream, errors in ((sys.stdout, "replace"), (sys.stdin, "surrogateescape")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        chat = _open_chat(arguments)
        while True:
            line = input("You: ")
            try:
                _answer(chat, line)
            except ValueError as error:
                print(f"mneme: {error}", flush=True)
    return ""


def _answer(chat: Chat, line: str) -> None:
    """Do what one line says; raises ValueError with one sentence when that cannot be done."""
    from mneme.ttt.chat import HELP, parse

    command = parse(line)
    if command is None:
        pieces = chat.reply(line)
        print("Assistant: ", end="", flush=True)
        try:
            for piece in pieces:
                print(piece.translate(_CONTROLS), end="", flush=True)
        finally:
            print(flush=True)
    elif command.name == "help":
        print(HELP, flush=True)
    elif command.name == "reset":
        chat.reset()
        print("Fast weights are as trained, the history is empty.", flush=True)
    else:
        path = Path(command.argument).expanduser()
        if path.exists():
            raise ArtefactError(f"{path} exists already: choose another name")
        try:
            write_tensors(path, chat.save())
        except OSError as error:
            raise ArtefactError(f"{path} cannot be written: {error.strerror}") from None
        print(f"Saved to {path}", flush=True)


def _open_chat(arguments: argparse.Namespace) -> Chat:
    """Load what a chat needs, and greet."""
    from mneme.core.devices import resolve
    from mneme.core.seeds import torch_generator
    from mneme.ttt.chat import Chat
    from mneme.ttt.tinylora import load_adapter

    config = _configuration(arguments.configfile)
    settings = build(ChatConfig, (config.get("ttt") or {}).get("chat"), where="ttt.chat")
    if arguments.temperature is not None:
        sampling = replace(settings.sampling, temperature=arguments.temperature)
        settings = replace(settings, sampling=sampling)
    run, results = arguments.name or settings.run, Path(arguments.results or config["results"])
    model, codec, recipe = _read_run(results, run, arguments.seed, resolve(config["device"]))
    if arguments.adapter is not None:
        model = load_adapter(model, arguments.adapter)
    chat = Chat(
        model.requires_grad_(False),
        codec,
        None if arguments.no_ttt else recipe.inner,
        settings,
        generator=torch_generator(arguments.seed, "chat"),
    )
    if arguments.load is not None:
        path = Path(arguments.load).expanduser()
        if not path.is_file():
            raise ArtefactError(f"{path} is missing: choose a file that /save wrote")
        chat.load(read_tensors(path), where=str(path))
    learns = "learns from what it reads" if chat.learns else "does not learn from what it reads"
    print(f"Run {run}, seed {arguments.seed}: {learns}. /help lists commands, Ctrl-D ends.")
    return chat


def _read_run(
    results: Path, run: str, seed: int, device: torch.device
) -> tuple[TTTTransformer, Codec, RecipeConfig]:
    """Read a fitted run: network, tokenizer, recipe.

    Raises
    ------
    ArtefactError
        A file is missing (names the target that makes it) or damaged.
    WeightsError
        The weights are of another network than its history tells.
    ConfigError
        The run was not trained on text.
    """
    from mneme.ttt.codec import Codec
    from mneme.ttt.paths import MARKOV
    from mneme.ttt.trained import trained_model

    folder = results / "ttt" / "fit" / run / f"seed{seed}"
    history = read_json(_made(folder / "history.json", results))
    recipe = build(RecipeConfig, history["recipe"], where="recipe")
    if recipe.corpus == MARKOV:
        raise ConfigError(f"run {run} was trained on drawn symbols, not on text: name another")
    model = trained_model(
        recipe.model,
        history["arm"],
        read_tensors(_made(folder / "model.safetensors", results)),
        vocabulary=history["vocabulary"],
        device=device,
    )
    tokenizer = results / "ttt" / "prepare" / recipe.corpus / "tokenizer.json"
    return model, Codec(_made(tokenizer, results).read_text(encoding="utf-8")), recipe


def _made(path: Path, results: Path) -> Path:
    """Return the path of a file that exists; raises ArtefactError naming what makes it."""
    if not path.is_file():
        raise ArtefactError(
            f"{path} is missing: run snakemake {results}/ttt_model.json, which fits the runs and "
            "seeds of the configuration"
        )
    return path
