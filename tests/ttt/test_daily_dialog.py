"""DailyDialog: a hub that answers from memory, what is kept of it, and one sentence if it fails."""

from __future__ import annotations

import hashlib
import importlib
import json
import time
import traceback
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pandas as pd
import pytest

from mneme.core.config import ConfigError, build
from mneme.core.corpora import read_documents
from mneme.ttt.corpus_config import CorpusConfig, DailyDialogConfig
from mneme.ttt.daily_dialog import DailyDialogError, conversations, fetch
from mneme.ttt.material import text_material
from mneme.ttt.prepare import prepare

COMMIT = "12ab" * 10
SETTINGS = {"name": "org/talks", "revision": COMMIT, "files": ["data/a.parquet", "data/b.parquet"]}
CONFIG = build(DailyDialogConfig, SETTINGS, where="daily_dialog")
TALKS = {
    "data/a.parquet": [["Say , Jim , how are you ?", "I ’ m fine ."], ["Hi .", "Hello !", "Bye"]],
    "data/b.parquet": [["Hi .", "Hello !", "Bye"], ["Good night .", "Good night ."]],
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Let the hub's own client talk to answers given by the test; an empty cache."""
    client = type(huggingface_hub.get_session())  # of httpx, or of its successor
    httpx = importlib.import_module(client.__module__.split(".")[0])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits between retries
    asked: list[str] = []

    def answer(status, code=None, files=None):
        def reply(request):
            asked.append(request.url.path)
            if status is None:
                raise httpx.ConnectError("unreachable", request=request)
            headers = {"X-Error-Code": code} if code else {}
            if status == 200:
                name = request.url.path.split(f"/resolve/{COMMIT}/")[1]
                content = files[name]
                mark = hashlib.sha256(content).hexdigest()
                headers = {"ETag": f'"{mark}"', "X-Repo-Commit": COMMIT}
                body = {"content": content} if request.method == "GET" else {}
                headers["Content-Length"] = str(len(content))
                return httpx.Response(200, headers=headers, request=request, **body)
            token = request.headers.get("authorization", "")
            return httpx.Response(status, headers=headers, text=f"refused {token}", request=request)

        huggingface_hub.set_client_factory(
            lambda: httpx.Client(transport=httpx.MockTransport(reply))
        )
        return asked

    yield answer
    huggingface_hub.close_session()
    from huggingface_hub.utils._http import default_client_factory

    huggingface_hub.set_client_factory(default_client_factory)


def stored(talks):
    return {name: json.dumps(turns).encode() for name, turns in talks.items()}


@pytest.fixture
def parquet(monkeypatch):
    """Read files that hold JSON in place of parquet: pyarrow need not be there."""

    def read(path, columns):
        assert columns == ["dialog"]
        turns = json.loads(Path(path).read_text(encoding="utf-8"))
        return pd.DataFrame({"dialog": [np.array(one, object) for one in turns]})

    monkeypatch.setattr(pd, "read_parquet", read)


def failure(config=CONFIG):
    with pytest.raises(DailyDialogError) as caught:
        fetch(config)
    everything = "".join(traceback.format_exception(caught.value))
    assert "hf_planted" not in everything
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what the hub gives


def test_files_of_the_pinned_commit_are_read_in_their_order_and_once(hub, parquet):
    asked = hub(200, files=stored(TALKS))
    assert fetch(CONFIG) == [*TALKS["data/a.parquet"], *TALKS["data/b.parquet"]]
    wanted = {f"/datasets/org/talks/resolve/{COMMIT}/{name}" for name in TALKS}
    assert {path for path in asked if "/resolve/" in path} == wanted
    hub(None)  # what is in the cache needs no network
    assert fetch(CONFIG) == [*TALKS["data/a.parquet"], *TALKS["data/b.parquet"]]


def test_real_parquet_is_read(hub):
    """With pyarrow, where it is installed: rows as the data set has them."""
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    files = {}
    for name, turns in TALKS.items():
        columns = {"dialog": turns, "act": [[1] * len(one) for one in turns]}
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.table(columns), sink, compression="snappy")
        files[name] = sink.getvalue().to_pybytes()
    hub(200, files=files)
    assert fetch(CONFIG) == [*TALKS["data/a.parquet"], *TALKS["data/b.parquet"]]


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (None, None, "is not in the local cache and there is no network"),
        (401, "GatedRepo", "is gated: accept its licence"),
        (403, "GatedRepo", "is gated: accept its licence"),
        (404, "RevisionNotFound", f"has no commit {COMMIT}: correct ttt.daily_dialog.revision"),
        (404, "EntryNotFound", "has no file data/a.parquet: correct ttt.daily_dialog.files"),
        (404, "RepoNotFound", "is not on the hub, or is private (HF_TOKEN): correct ttt.daily_d"),
        (401, None, "is not on the hub, or is private (HF_TOKEN): correct ttt.daily_dialog.name"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(hub, status, code, words):
    hub(status, code)
    assert failure().startswith(f"corpus org/talks {words}")


def test_offline_is_one_sentence(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = failure()
    assert "there is no network (or HF_HUB_OFFLINE is set): connect, or choose a corpus" in message


def test_a_missing_reader_and_a_damaged_file_are_one_sentence(hub, monkeypatch):
    hub(200, files=stored(TALKS))

    def lacking(path, columns):
        raise ImportError("Unable to find a usable engine")

    monkeypatch.setattr(pd, "read_parquet", lacking)
    assert "is stored as parquet: install pyarrow to read it, or choose a corpus" in failure()

    def damaged(path, columns):
        raise ValueError("no magic bytes\nanywhere")

    monkeypatch.setattr(pd, "read_parquet", damaged)
    assert failure().startswith("data/a.parquet of corpus org/talks is damaged or has no column")


# --- what is kept


def test_conversations_are_cleaned_and_kept_once():
    dialogues = [
        *TALKS["data/a.parquet"],
        *TALKS["data/b.parquet"],
        ["  It ' s   ten o ' clock ( sharp ) . ", "They ’ ll come ; we ' d wait : 5 % !"],
        ["write to me at a@b.com", "I will"],
        ["alone"],
        ["one", "  ", "three"],
    ]
    found = [(one.group, one.text) for one in conversations(dialogues)]
    assert found == [
        ("daily_dialog/00000", "Say, Jim, how are you?\nI’m fine."),
        ("daily_dialog/00001", "Hi.\nHello!\nBye"),
        ("daily_dialog/00003", "Good night.\nGood night."),
        ("daily_dialog/00004", "It's ten o ' clock ( sharp).\nThey’ll come; we'd wait: 5%!"),
    ]


def test_the_rule_writes_a_corpus_that_can_be_prepared(hub, parquet, tmp_path):
    many = [[f"Turn {i} of talk {n} ." for i in range(4)] for n in range(9)]
    hub(200, files=stored({"data/a.parquet": many, "data/b.parquet": many[:2]}))
    output = tmp_path / "corpora" / "daily_dialog.jsonl"
    snakemake = job(tmp_path, output)
    script = Path(__file__).parents[2] / "workflow" / "scripts" / "ttt_daily_dialog.py"
    run_path(str(script), init_globals={"snakemake": snakemake})
    documents = read_documents(output)
    assert len(documents) == 9
    scenes = [SimpleNamespace(group=f"play{i}", text=f"To be {i} or not.") for i in range(4)]
    config = build(CorpusConfig, CORPUS, where="corpus")
    made = prepare({"daily_dialog": documents, "shakespeare": scenes}, config, tokenizer=None)
    counts = {p["split"]: p["documents"] for p in made.facts["parts"] if p["kind"] != "play"}
    assert counts == {"train": 4, "validation": 3, "test": 2}
    material = text_material(made.arrays, config)
    assert material.kinds == ("play", "conversation")
    assert material.test_conversations(10, 40, 2).ids.shape == (2, 41)


CORPUS = {
    **{"tokenizer": "bytes", "vocabulary": None, "train_share": 0.5, "validation_share": 0.25},
    **{"sources": {"shakespeare": 0.5, "daily_dialog": 0.5}, "min_turns": 2, "seed": 0},
    "test_part": "last",
    **{"drop_offensive": False, "harmless": [], "limit": None},
}


class Named(SimpleNamespace):
    """Snakemake's lists of files: named, and read in their order."""

    def __iter__(self):
        return iter(vars(self).values())

    def __len__(self):
        return len(vars(self))


def job(folder, output):
    return SimpleNamespace(
        input=Named(),
        output=Named(corpus=str(output)),
        params=SimpleNamespace(code="c", config=SETTINGS, device="cpu", packages=()),
        wildcards=SimpleNamespace(),
        log=[str(folder / "logs" / "ttt_daily_dialog.log")],
        threads=1,
        rule="ttt_daily_dialog",
    )


# --- mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"revision": "main"}, "daily_dialog.revision must be a commit of 40 hex digits, got 'm"),
        ({"revision": COMMIT.upper()}, "daily_dialog.revision must be a commit of 40 hex digits"),
        ({"name": "talks"}, "daily_dialog.name must be a hub id"),
        ({"files": []}, "daily_dialog.files must be one or more different ones"),
        ({"files": ["a", "a"]}, "daily_dialog.files must be one or more different ones"),
    ],
)
def test_what_is_not_pinned_is_refused(changes, message):
    with pytest.raises(ConfigError) as caught:
        build(DailyDialogConfig, SETTINGS | changes, where="daily_dialog")
    assert str(caught.value).startswith(message)


def test_two_sources_of_conversations_are_refused():
    both = {"chitchat": 0.5, "daily_dialog": 0.5}
    with pytest.raises(ConfigError, match="sources must be one of plays and one of conversations"):
        build(CorpusConfig, CORPUS | {"sources": both}, where="corpus")
    config = build(CorpusConfig, CORPUS, where="corpus")
    assert config.source_of == {"play": "shakespeare", "conversation": "daily_dialog"}
