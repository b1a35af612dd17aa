"""A conversation: what is read, what is learned, what is forgotten; the command on a terminal."""

from __future__ import annotations

import dataclasses
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mneme.cli import main
from mneme.core.artefacts import read_tensors, write_json, write_tensors, write_text
from mneme.core.config import plain
from mneme.core.seeds import torch_generator
from mneme.ttt.adapter_config import AdapterRunConfig
from mneme.ttt.chat import Chat, ChatError, Exchange, TextStream, exchange_ids, parse, prompt_ids
from mneme.ttt.chat_config import ChatConfig, SamplingConfig
from mneme.ttt.codec import Codec, byte_tokenizer
from mneme.ttt.config import InnerConfig, ModelConfig, RecipeConfig, TrainingConfig
from mneme.ttt.inner import InnerLossError, read
from mneme.ttt.model import build_model
from mneme.ttt.tinylora import adapt, save_adapter

ROOT = Path(__file__).parents[2]
MODEL = ModelConfig(
    blocks=3,
    width=16,
    heads=2,
    hidden=24,
    ttt_blocks=2,
    window=8,
    rope_base=1e4,
    qk_norm=True,
    tied=True,
)
INNER = InnerConfig(chunk=8, learning_rate=1.0, clip=1.0)
CONFIG = ChatConfig(
    run="talker",
    exchanges=5,
    prompt_tokens=60,
    reply_tokens=12,
    sampling=SamplingConfig(temperature=1.0, top_k=None, top_p=None),
)


SHARED = AdapterRunConfig(
    base="talker",
    form="shared",
    rank=None,
    vector=None,
    learning_rate=1.0,
    control="none",
    control_of=None,
)


@pytest.fixture(scope="module")
def codec():
    return Codec(byte_tokenizer())


def network(arm="second", config=MODEL):
    return build_model(config, arm, vocabulary=259, generator=torch_generator(0, "net"))


@pytest.fixture(scope="module")
def model():
    return network()


def opened(model, codec, *, inner=INNER, seed=0, **changed):
    config = dataclasses.replace(CONFIG, **changed)
    return Chat(model, codec, inner, config, generator=torch_generator(seed, "chat"))


def said(chat, *lines):
    return ["".join(chat.reply(line)) for line in lines]


def scripted(chat, monkeypatch, replies):
    """Make the network answer with given tokens, whatever it thinks."""
    tokens = iter([token for reply in replies for token in reply])
    monkeypatch.setattr(chat, "_draw", lambda _: torch.tensor([next(tokens)]))


# --- lines and prompts ---------------------------------------------------------------------------


def test_lines_are_turns_or_commands():
    assert parse("hello /reset") is None
    assert parse(" /reset ") == ("reset", "")
    assert parse("/help") == ("help", "")
    assert parse("/save  a b.safetensors ") == ("save", "a b.safetensors")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "the prompt is empty: type something, or /help"),
        (" \t ", "the prompt is empty: type something, or /help"),
        ("/save", "/save takes a path after it, got ''"),
        ("/reset all", "/reset takes nothing after it, got 'all'"),
        ("a\udcff", "this line is not UTF-8: type it again"),
        ("/quit", "there is no command /quit: the commands are /help, /reset, /save PATH"),
    ],
)
def test_a_line_that_means_nothing_gets_one_sentence(line, sentence):
    with pytest.raises(ChatError, match=f"^{re.escape(sentence)}$"):
        parse(line)


def test_the_prompt_is_the_last_exchanges_and_the_turn(codec):
    history = [Exchange((10 * i,), (10 * i + 1,)) for i in range(1, 8)]
    past, new = prompt_ids(history, (99, 98), codec.marks, CONFIG)
    assert new == [0, 99, 98, 1]
    assert past == [i for n in range(3, 8) for i in (0, 10 * n, 1, 10 * n + 1)]
    none = dataclasses.replace(CONFIG, exchanges=0)
    assert prompt_ids(history, (99,), codec.marks, none) == ([], [0, 99, 1])
    assert prompt_ids([], (99,), codec.marks, CONFIG) == ([], [0, 99, 1])


@examples(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), max_size=8),
    turn=st.integers(1, 70),
)
def test_the_oldest_exchanges_go_first_and_the_turn_never(codec, lengths, turn):
    history = [Exchange((5,) * a, (6,) * b) for a, b in lengths]
    limit = CONFIG.prompt_tokens
    if turn + 2 > limit:
        with pytest.raises(ChatError, match=rf"^this turn takes {turn + 2} tokens .* {limit}: "):
            prompt_ids(history, (7,) * turn, codec.marks, CONFIG)
        return
    past, new = prompt_ids(history, (7,) * turn, codec.marks, CONFIG)
    assert new == [0, *(7,) * turn, 1]
    fitting = [
        ids
        for count in range(min(len(history), CONFIG.exchanges) + 1)
        if len(
            ids := [
                i for e in history[len(history) - count :] for i in exchange_ids(e, codec.marks)
            ]
        )
        + len(new)
        <= limit
    ]
    assert past == fitting[-1]


# --- text out ------------------------------------------------------------------------------------


@examples(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 258), max_size=30))
def test_streamed_pieces_are_the_decoded_text(codec, ids):
    stream = TextStream(codec)
    text = "".join([stream.push(i) for i in ids] + [stream.finish()])
    # Rust's decoder, as the tokenizer uses it, and Python's agree on what is broken.
    assert text == codec.decode([i for i in ids if i > 2])


def test_characters_come_out_whole_and_as_soon_as_they_are(codec):
    ids = codec.encode("aé🙂").tolist()
    stream = TextStream(codec)
    assert [stream.push(i) for i in ids] == ["a", "", "é", "", "", "", "🙂"]
    assert stream.push(ids[1]) == ""
    assert stream.push(0) == ""
    assert stream.finish() == "\ufffd"


# --- replies -------------------------------------------------------------------------------------


def test_a_reply_comes_token_by_token_and_ends_at_a_mark(model, codec, monkeypatch):
    chat, ids = opened(model, codec), codec.encode("né!").tolist()
    drawn: list[int] = []

    def draw(_):
        drawn.append([*ids, 0][len(drawn)])
        return torch.tensor(drawn[-1:])

    monkeypatch.setattr(chat, "_draw", draw)
    pieces = chat.reply("hi")
    for count, piece in enumerate(["n", "", "é", "!"], 1):
        assert next(pieces) == piece
        assert len(drawn) == count
    assert list(pieces) == [""]
    assert chat.history == [Exchange(tuple(codec.encode("hi").tolist()), tuple(ids))]


@pytest.mark.parametrize("mark", ["user", "assistant", "end"])
def test_every_mark_ends_a_reply(model, codec, monkeypatch, mark):
    chat = opened(model, codec)
    scripted(chat, monkeypatch, [[70, 71, int(getattr(codec.marks, mark)[0]), 72]])
    assert said(chat, "hi") == [codec.decode([70, 71])]


def test_a_reply_ends_at_the_limit(model, codec, monkeypatch):
    chat = opened(model, codec, reply_tokens=3)
    scripted(chat, monkeypatch, [[70, 71, 72, 73]])
    assert said(chat, "hi") == [codec.decode([70, 71, 72])]


def test_marks_that_are_typed_are_plain_text(model, codec):
    chat = opened(model, codec)
    said(chat, "<|end|>")
    assert min(chat.history[0].turn) > 2
    assert codec.decode(chat.history[0].turn) == "<|end|>"


def learned(model, codec, history, fast, exchange):
    """Return fast weights after an exchange, by `inner.read`: history frozen, exchange learned."""
    ids = torch.tensor([[*exchange_ids(exchange, codec.marks), int(codec.marks.user[0])]])
    past = [i for e in history for i in exchange_ids(e, codec.marks)]
    state = None if fast is None else read(model, ids, INNER, update=False).state
    state = state and dataclasses.replace(state, fast=fast, prefix_past=None, suffix_past=None)
    if past:
        opening = torch.tensor([[*past, int(ids[0, 0])]])
        state = read(model, opening, INNER, update=False, state=state).state
    return read(model, ids, INNER, state=state, flush=True).state.fast


def test_each_exchange_is_learned_once_and_history_is_only_read(model, codec):
    chat, fast = opened(model, codec, prompt_tokens=300), None
    for count, line in enumerate(["how are you?", "well", "and where do you live now?"]):
        said(chat, line)
        fast = learned(model, codec, chat.history[:count], fast, chat.history[count])
        for name, w in fast.items():
            torch.testing.assert_close(chat.fast[name], w, atol=1e-5, rtol=0)
    start = opened(model, codec)
    said(start, "how are you?")
    assert not torch.equal(start.fast[name], chat.fast[name])


def test_fast_weights_remember_what_the_prompt_has_no_room_for(model, codec):
    """Two chats whose next prompts are the same tokens differ only through fast weights."""
    replies = []
    for first in ("one thing", "another thing"):
        chat = opened(model, codec, exchanges=0)
        said(chat, first)
        weights = [w.clone() for w in chat.fast.values()]
        chat._generator = torch_generator(5, "again")
        replies.append((said(chat, "go on")[0], weights))
    assert not torch.equal(replies[0][1][0], replies[1][1][0])
    frozen = []
    for first in ("one thing", "another thing"):
        chat = opened(model, codec, inner=None, exchanges=0)
        said(chat, first)
        chat._generator = torch_generator(5, "again")
        frozen.append(said(chat, "go on")[0])
    assert frozen[0] == frozen[1]


def test_reset_forgets_everything(model, codec):
    chat = opened(model, codec)
    said(chat, "remember this", "and that")
    chat.reset()
    chat._generator = torch_generator(3, "again")
    fresh = opened(model, codec)
    fresh._generator = torch_generator(3, "again")
    assert said(chat, "hello", "there") == said(fresh, "hello", "there")
    assert chat.history == fresh.history
    assert all(torch.equal(w, fresh.fast[name]) for name, w in chat.fast.items())


def test_without_learning_or_without_fast_weights_nothing_is_carried(codec, model):
    for chat in (opened(model, codec, inner=None), opened(network("sliding"), codec)):
        assert not chat.learns
        said(chat, "hello", "there")
        assert len(chat.history) == 2
        weights = chat.fast or {}
        for name, w in weights.items():
            assert torch.equal(w[0], model.get_submodule(name).weight)


@pytest.mark.parametrize("line", ["", "  ", "x" * 59])
def test_a_turn_that_is_empty_or_too_long_changes_nothing(model, codec, line):
    chat = opened(model, codec)
    said(chat, "hello")
    before = (chat.fast, list(chat.history))
    with pytest.raises(ChatError, match="empty" if not line.strip() else "61 tokens"):
        chat.reply(line)
    assert (chat.fast, chat.history) == before
    said(chat, "x" * 58)


def test_a_reply_broken_off_or_failed_leaves_the_talk_as_it_was(model, codec):
    chat = opened(model, codec)
    said(chat, "hello")
    before = (chat.fast, list(chat.history))
    pieces = chat.reply("go on")
    next(pieces)
    pieces.close()
    assert (chat.fast, chat.history) == before
    wild = opened(model, codec, inner=InnerConfig(chunk=2, learning_rate=1e30, clip=1.0))
    with pytest.raises(InnerLossError, match=r"^the .* of chunk \d+ is not finite"):
        said(wild, "a turn of some length")
    assert (wild.fast, wild.history) == (None, [])


# --- saved chats ---------------------------------------------------------------------------------


def test_a_saved_chat_goes_on_as_if_never_stopped(model, codec, tmp_path):
    chat = opened(model, codec)
    said(chat, "hello", "é🙂")
    write_tensors(tmp_path / "talk", chat.save())
    again = opened(model, codec)
    again.load(read_tensors(tmp_path / "talk"), where="talk")
    assert again.history == chat.history
    for one in (chat, again):
        one._generator = torch_generator(8, "on")
    assert said(chat, "and now?", "yes") == said(again, "and now?", "yes")
    assert all(torch.equal(w, again.fast[name]) for name, w in chat.fast.items())


def test_a_chat_saved_before_anything_was_said_is_a_fresh_one(model, codec):
    chat = opened(model, codec)
    said(chat, "hello")
    chat.load(opened(model, codec).save(), where="talk")
    assert (chat.fast, chat.history) == (None, [])


def test_what_is_no_saved_chat_or_of_another_network_is_refused(model, codec):
    chat = opened(model, codec)
    with pytest.raises(ChatError, match=r"^x is no saved chat: "):
        chat.load({"w": torch.zeros(1)}, where="x")
    other = network()
    with torch.no_grad():
        other.norm.weight[0] += 1e-3
    with pytest.raises(ChatError, match=r"^x was saved with other weights: "):
        chat.load(opened(other, codec).save(), where="x")


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path, model):
    """A results folder with a run of a random network, and an overlay that points to it."""
    training = TrainingConfig(
        steps=2,
        batch=1,
        micro_batch=1,
        tokens=16,
        learning_rate=1e-3,
        warmup=0,
        weight_decay=0.0,
        clip=1.0,
        objective="all_chunks",
        adapt_share=0.5,
        inner_warmup=0,
        inner_start=1.0,
        checkpointed=False,
        eval_every=1,
        eval_documents=1,
    )
    recipe = RecipeConfig(corpus="text", model=MODEL, inner=INNER, training=training)
    folder = tmp_path / "made" / "ttt"
    seed0 = folder / "fit" / "talker" / "seed0"
    write_tensors(seed0 / "model.safetensors", model.state_dict())
    facts = {"recipe": plain(recipe), "arm": "second", "vocabulary": 259, "points": []}
    write_json(seed0 / "history.json", facts)
    drawn = {**facts, "recipe": {**facts["recipe"], "corpus": "markov"}}
    write_json(folder / "fit" / "chains" / "seed0" / "history.json", drawn)
    write_text(folder / "prepare" / "text" / "tokenizer.json", byte_tokenizer())
    talker = {"recipe": "text", "arm": "second", "steps_factor": 1.0, "control_of": None}
    room = {"chat": plain(CONFIG), "runs": {"talker": talker}}
    overlay = {"device": "cpu", "results": str(tmp_path / "made"), "ttt": room}
    write_text(tmp_path / "overlay.yaml", yaml.safe_dump(overlay))
    return tmp_path


def shown(text):
    """Return a reply as the terminal shows it."""
    return "".join(c if c in "\n\t" or ord(c) not in CONTROLS else "\ufffd" for c in text)


CONTROLS = {*range(32), *range(127, 160)}


class Terminal:
    """The command on a pseudo-terminal; what it writes is collected."""

    def __init__(self, *arguments):
        self.master, slave = pty.openpty()
        mneme = str(Path(sys.executable).with_name("mneme"))
        # Who opens a terminal at the head of a new session owns it: Ctrl-C typed there reaches it.
        opening = ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(slave)]
        self.process = subprocess.Popen(
            [*opening, mneme, "chat", *arguments],
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, "TERM": "dumb", "PYTHONIOENCODING": "utf-8"},
            start_new_session=True,
            # A shell in the background hands Ctrl-C on as ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self._slave = slave  # open until the command has opened it too

    def type(self, text):
        os.write(self.master, text.encode(errors="surrogateescape"))

    def until(self, mark, *, limit_s=90):
        """Read until `mark` was written; returns everything up to its end."""
        seen, end = b"", time.monotonic() + limit_s
        while mark.encode() not in seen:
            assert time.monotonic() < end, f"no {mark!r} within {limit_s} s, only {seen!r}"
            if select.select([self.master], [], [], 1)[0]:
                try:
                    seen += os.read(self.master, 1024)
                except OSError:  # the other side is closed
                    break
        return seen.decode(errors="replace").replace("\r\n", "\n")

    def leave(self):
        """Leave the terminal to the command, so that its end is seen."""
        os.close(self._slave)

    def close(self):
        status = self.process.wait(timeout=60)
        os.close(self.master)
        return status


def test_a_talk_on_a_terminal(results, model, codec, tmp_path):
    before = opened(model, codec)
    said(before, "well met")
    write_tensors(results / "before", before.save())
    expected = opened(model, codec, reply_tokens=CONFIG.reply_tokens)
    expected.load(before.save(), where="before")
    terminal = Terminal(
        "--configfile", str(results / "overlay.yaml"), "--load", str(results / "before")
    )
    greeting = terminal.until("You: ")
    terminal.leave()
    assert "Run talker, seed 0: learns from what it reads." in greeting

    def told(line):
        terminal.type(line + "\n")
        answer = terminal.until("You: ")
        return answer.split("\n", 1)[1].removesuffix("You: ")

    for line in ("hello", "grüße 🙂"):
        assert told(line) == f"Assistant: {shown(said(expected, line)[0])}\n"
    assert told("") == "mneme: the prompt is empty: type something, or /help\n"
    assert told("a\udcff") == "mneme: this line is not UTF-8: type it again\n"
    assert told("x" * 99).startswith("mneme: this turn takes 101 tokens")
    assert "/save PATH" in told("/help")
    assert told(f"/save {results / 'after'}") == f"Saved to {results / 'after'}\n"
    assert told(f"/save {results}") == f"mneme: {results} exists already: choose another name\n"
    inside = results / "after" / "inside"
    assert told(f"/save {inside}") == f"mneme: {inside} cannot be written: File exists\n"
    assert told("/reset") == "Fast weights are as trained, the history is empty.\n"
    expected.reset()
    assert told("hello") == f"Assistant: {shown(said(expected, 'hello')[0])}\n"
    terminal.type("\x03")
    assert "Traceback" not in terminal.until("no such mark")
    assert terminal.close() == 0
    after = opened(model, codec)
    after.load(read_tensors(results / "after"), where="after")
    assert [codec.decode(turn) for turn, _ in after.history] == ["well met", "hello", "grüße 🙂"]


def talk(monkeypatch, results, *arguments, lines=()):
    """Run the command in this process, fed with lines; returns its exit status."""
    lines = iter(lines)

    def typed(prompt):
        print(prompt, end="")
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("builtins.input", typed)
    return main(["chat", "--configfile", str(results / "overlay.yaml"), *arguments])


def test_options_decide_who_answers(monkeypatch, capsys, results, model, codec):
    wrapped = adapt(model, SHARED, seed=0)
    with torch.no_grad():
        for number in wrapped.scale.values():
            number.fill_(3.0)
    save_adapter(wrapped, results / "adapter", base_name="talker")
    answers = []
    adapter = ("--adapter", str(results / "adapter"))
    for arguments in ((), (), ("--no-ttt",), adapter, ("--temperature", "0")):
        assert talk(monkeypatch, results, *arguments, lines=["a", "b"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert ("does not learn" in out) == ("--no-ttt" in arguments)
        answers.append(out.split("\n", 1)[1])
    assert answers[0] == answers[1]
    assert len(set(answers)) == 4


def test_a_key_pressed_while_it_loads_or_answers_ends_it(monkeypatch, capsys, results):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mneme.ttt.chat.sample", lambda *_, **__: interrupted())
        assert talk(patch, results, lines=["hello"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("mneme.cli_chat._read_run", interrupted)
        assert talk(patch, results) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--run", "nobody"),
            "fit/nobody/seed0/history.json is missing: run snakemake {made}/ttt_mod",
        ),
        (
            ("--seed", "3"),
            "fit/talker/seed3/history.json is missing: run snakemake {made}/ttt_model.j",
        ),
        (("--run", "chains"), "run chains was trained on drawn symbols, not on text: name another"),
        (("--adapter", "{tmp}"), "{tmp} is no adapter: "),
        (("--adapter", "{tmp}/other"), "{tmp}/other"),
        (("--load", "{tmp}/nothing"), "{tmp}/nothing is missing: choose a file that /save wrote"),
        (("--load", "{tmp}/overlay.yaml"), "{tmp}/overlay.yaml is damaged"),
        (("--load", "{made}/ttt/fit/talker/seed0/model.safetensors"), "is no saved chat: "),
        (("--temperature", "-1"), "temperature must be finite, 0 or above, got -1.0"),
        (("--configfile", "{tmp}/none.yaml"), "{tmp}/none.yaml is missing"),
    ],
)
def test_what_cannot_be_opened_ends_in_one_sentence(
    monkeypatch, capsys, results, arguments, sentence
):
    if "other" in arguments[-1]:
        wider = network(config=dataclasses.replace(MODEL, width=24))
        save_adapter(adapt(wider, SHARED, seed=0), results / "other", base_name="talker")
    names = {"tmp": results, "made": results / "made"}
    assert talk(monkeypatch, results, *(a.format(**names) for a in arguments)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mneme: ")
    assert sentence.format(**names) in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ({"threads": 0}, "config.threads must be at least 1, got 0"),
        ({"device": "gpu"}, "config.device must be one of 'auto', 'cpu', 'cuda', got 'gpu'"),
        ({"ttt": {"chat": {"run": "nobody"}}}, "config.ttt.chat.run must be a run with fast"),
        ({"ttt": {"chat": {"exchange": 5}}}, "config.ttt.chat.exchange is not a known key; did"),
        ({"ttt": {"recipes": {"text": {"inner": {"chunk": 99}}}}}, "text.inner.chunk must be at m"),
        ({"ttt": 3}, "config.ttt must be a block of keys, got 3"),
    ],
)
def test_the_whole_configuration_is_checked_before_anything_is_said(
    monkeypatch, capsys, results, mistake, sentence
):
    write_text(results / "wrong.yaml", yaml.safe_dump(mistake))
    overlays = [str(results / name) for name in ("overlay.yaml", "wrong.yaml")]
    monkeypatch.chdir(ROOT)
    assert main(["chat", "--configfile", *overlays]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mneme: config.")
    assert sentence in err
    assert err.count("\n") == 1


def test_weights_that_do_not_fit_their_history_are_told(monkeypatch, capsys, results):
    path = results / "made/ttt/fit/talker/seed0/model.safetensors"
    write_tensors(path, network("sliding").state_dict())
    assert talk(monkeypatch, results) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mneme: the weights do not fit the recipe")
