"""The first commit that was read is the one that every later job reads."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from mneme.core.artefacts import ArtefactError, read_json
from mneme.core.revisions import kept_revision

A, B = "a1" * 20, "b2" * 20


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def never():
    raise AssertionError("the hub was asked")


def test_the_first_commit_is_kept_and_the_hub_is_not_asked_again(tmp_path):
    assert kept_revision(tmp_path / "kept", "org/name", lambda: A) == A
    assert kept_revision(tmp_path / "kept", "org/name", never) == A
    assert kept_revision(tmp_path / "kept", "org/other", lambda: B) == B
    assert read_json(tmp_path / "kept" / "org--name.json") == {"name": "org/name", "revision": A}
    assert names(tmp_path / "kept") == ["org--name.json", "org--other.json"]


def test_without_the_file_the_newest_is_taken(tmp_path):
    kept_revision(tmp_path, "org/name", lambda: A)
    (tmp_path / "org--name.json").unlink()
    assert kept_revision(tmp_path, "org/name", lambda: B) == B


@pytest.mark.parametrize("links", [True, False])
def test_a_process_that_was_slower_reads_what_the_faster_one_kept(tmp_path, monkeypatch, links):
    """On a file system without links the last one to ask decides, once, for both."""
    if not links:
        monkeypatch.setattr(
            "os.link", lambda *_: (_ for _ in ()).throw(PermissionError("no links"))
        )

    def asked():
        kept_revision(tmp_path, "org/name", lambda: A)  # by another process, meanwhile
        return B

    assert kept_revision(tmp_path, "org/name", asked) == (A if links else B)
    assert kept_revision(tmp_path, "org/name", never) == (A if links else B)
    assert names(tmp_path) == ["org--name.json"]


ASK = """
import sys, time
from mneme.core.revisions import kept_revision

def newest():
    time.sleep(max(0.0, float(sys.argv[3]) - time.time()))
    return sys.argv[2] * 40

print(kept_revision(sys.argv[1], "org/name", newest))
"""


def test_processes_that_ask_at_the_same_moment_agree(tmp_path):
    moment = str(time.time() + 3)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", ASK, str(tmp_path), digit, moment],
            stdout=subprocess.PIPE,
            text=True,
        )
        for digit in "1234"
    ]
    answers = [worker.communicate(timeout=60)[0].strip() for worker in workers]
    assert len(set(answers)) == 1
    assert len(answers[0]) == 40


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"revision": null}', '{"revision": "main"}', '{"revision": 1}']
)
def test_a_damaged_file_is_one_sentence(tmp_path, text):
    (tmp_path / "org--name.json").write_text(text)
    with pytest.raises(ArtefactError, match=r"org--name\.json is damaged \(.*\): delete it"):
        kept_revision(tmp_path, "org/name", never)


def test_what_is_no_commit_is_never_kept(tmp_path):
    with pytest.raises(AssertionError, match="'main' is no commit of org/name"):
        kept_revision(tmp_path, "org/name", lambda: "main")
    assert names(tmp_path) == []
