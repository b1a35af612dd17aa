"""Command `mneme chat`: a conversation on the terminal with a fitted run of room `ttt`."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mneme.core.artefacts import ArtefactError, read_json, read_tensors, write_tensors
from mneme.core.config import ConfigError, build
from mneme.settings import load_settings
from mneme.ttt.config import RecipeConfig

if TYPE_CHECKING:
    import torch

    from mneme.ttt.chat import Chat
    from mneme.ttt.codec import Codec
    from mneme.ttt.model import TTTTransformer

_CONTROLS = dict.fromkeys({*range(0x20), *range(0x7F, 0xA0)} - set(map(ord, "\t\n")), "\ufffd")
"""Signs that would steer the terminal: a network may draw them, a reader sees U+FFFD."""


def add_options(chat: argparse.ArgumentParser) -> None:
    """Add the options of `mneme chat`."""
    chat.add_argument("results", nargs="?", metavar="RESULTS_DIR", help="default: key `results`")
    chat.add_argument("--run", metavar="NAME", dest="name", help="default: key `ttt.chat.run`")
    chat.add_argument("--seed", type=int, default=0, metavar="N", help="weights, draws; default 0")
    chat.add_argument("--adapter", metavar="PATH", help="folder of a TinyLoRA adapter to talk with")
    chat.add_argument("--no-ttt", action="store_true", help="fast weights stay as they are")
    chat.add_argument("--load", metavar="PATH", help="go on from what /save wrote")
    chat.add_argument("--temperature", type=float, metavar="X", help="0 takes the likeliest token")


def talk(arguments: argparse.Namespace, config: Mapping[str, Any]) -> str:
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
        chat = _open_chat(arguments, config)
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


def _open_chat(arguments: argparse.Namespace, config: Mapping[str, Any]) -> Chat:
    """Load what a chat needs, and greet."""
    from mneme.core.devices import resolve
    from mneme.core.seeds import torch_generator
    from mneme.ttt.chat import Chat
    from mneme.ttt.tinylora import load_adapter

    whole = load_settings(config)
    settings = whole.ttt.chat
    if arguments.temperature is not None:
        sampling = replace(settings.sampling, temperature=arguments.temperature)
        settings = replace(settings, sampling=sampling)
    run, results = arguments.name or settings.run, Path(arguments.results or whole.results)
    model, codec, recipe = _read_run(results, run, arguments.seed, resolve(whole.device))
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
