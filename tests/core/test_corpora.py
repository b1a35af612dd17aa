"""Documents of the three corpora: small planted sources, then the real ones."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from mneme.core.artefacts import ArtefactError
from mneme.core.corpora import (
    Document,
    chitchat,
    python,
    read_documents,
    scenes,
    shakespeare,
    write_documents,
)

PLAY = r"""# The Play

## ACT I

### SCENE I. A street.

_Enter A, B and
Attendants_

**FIRST MAN**
Who's there?
_\[Aside]_
Nay,'\--answer, & c.

SONG.

Second
[Within]_

**B**
And either _\[curb]_ the devil

*Exeunt
all.*

BISHOP

**OF WINCHESTER**
Last line.

### SCENE II. A wood.

_Thunder_

**As long as you or I**
he must die.

# EPILOGUE

**CHORUS**
Farewell.
"""


def test_speeches_only():
    assert scenes(PLAY) == [
        ["Who's there?\nNay,'--answer, &c.\nSecond", "And either curb the devil", "Last line."],
        ["Farewell."],
    ]


def test_a_bold_line_of_verse_is_no_speaker():
    play = "### SCENE\n\n**ANGELO**\nit may be,\n\n**As long as you or I**\nyet he must die."
    assert scenes(play) == [["it may be,\nAs long as you or I\nyet he must die."]]


def test_an_unmarked_heading_begins_a_scene():
    play = "**A**\nFarewell.\n\nSCENE II: A room.\n\nEnter PORTIA and train\n\n**B**\nBy my troth."
    assert scenes(play) == [["Farewell."], ["By my troth."]]


def test_scenes_are_documents_of_their_play():
    documents = shakespeare({"plays/b/second.md": b"**X**\nHo!", "plays/a/first.md": PLAY.encode()})
    assert [d.group for d in documents] == ["first", "first", "second"]
    assert documents[0].text.count("\n\n") == 2
    assert documents[2].text == "Ho!"


def test_near_empty_source_files_are_left_out():
    members = {"b.py": b"x = 1\n", "a.py": b"def f(x):\n    return x + 1\n\n"}
    assert python(members, min_characters=10) == [Document("a.py", "def f(x):\n    return x + 1")]


def turn(sender, *texts):
    return [{"text": text, "sender": sender} for text in texts]


def conversations(**named):
    return {"data.json": json.dumps({k: {"messages": v} for k, v in named.items()}).encode()}


def test_one_line_a_turn():
    four = [
        turn("a", "Hello", "how\nare you?"),
        turn("b", "fine"),
        turn("a", "good"),
        turn("b", "bye"),
    ]
    found = chitchat(conversations(z=four, k=four), min_turns=4)
    assert [d.group for d in found] == ["k", "z"]
    assert found[0].text == "Hello how are you?\nfine\ngood\nbye"


@pytest.mark.parametrize(
    "last",
    [
        "see https://a.b/c",
        "www.somewhere",
        "mail me@home.org",
        "go to thing.com now",
        "  ",
    ],
)
def test_links_mails_and_silent_turns_are_left_out(last):
    kept = [turn("a", "one"), turn("b", "two"), turn("a", "three"), turn("b", "four")]
    dropped = [*kept[:3], turn("b", last)]
    assert [d.group for d in chitchat(conversations(k=kept, x=dropped), min_turns=4)] == ["k"]


def test_monologues_and_short_talks_are_left_out():
    alone = [turn("a", str(i)) for i in range(5)]
    short = [turn("a", "1"), turn("b", "2"), turn("a", "3")]
    assert chitchat(conversations(alone=alone, short=short), min_turns=4) == []


def test_documents_round_trip_through_a_file(tmp_path):
    documents = [Document("a", "one\ntwo — “three”"), Document("a", '\\ " \u2028 tab\t')]
    write_documents(tmp_path / "c.jsonl", documents)
    assert read_documents(tmp_path / "c.jsonl") == documents
    assert len((tmp_path / "c.jsonl").read_bytes().split(b"\n")) == 3


def test_missing_damaged_and_empty_corpora_are_one_sentence(tmp_path):
    path = tmp_path / "c.jsonl"
    with pytest.raises(ArtefactError, match="is missing"):
        read_documents(path)
    path.write_text('{"group": "a", "text": "b"}\n{"group": "a"')
    with pytest.raises(ArtefactError, match="is damaged"):
        read_documents(path)
    path.write_text('{"group": "a"}\n')
    with pytest.raises(ArtefactError, match="is damaged"):
        read_documents(path)
    path.write_text("")
    with pytest.raises(ArtefactError, match="empty corpus"):
        read_documents(path)


@pytest.fixture(scope="module")
def real(corpora_dir):
    return {path.stem: read_documents(path) for path in Path(corpora_dir).glob("*.jsonl")}


def test_real_shakespeare_holds_all_speeches_and_nothing_else(real):
    texts = [d.text for d in real["shakespeare"]]
    assert len({d.group for d in real["shakespeare"]}) == 38
    # 31,354 bold lines in the source: one of them is verse, and so is not counted.
    assert sum(text.count("\n\n") + 1 for text in texts) == 31353
    everything = "\n".join(texts)
    assert not re.search(r"[_*#\[\]\\]", everything)
    assert not re.search(r"^(Enter [A-Z]{2}|Exeunt|BISHOP|SCENE|ACT )", everything, re.MULTILINE)
    assert "To be, or not to be: that is the question:" in everything


def test_real_python_compiles_and_is_no_test_or_migration(real):
    groups = [d.group for d in real["python"]]
    assert len(groups) == len(set(groups)) == 602
    assert not [g for g in groups if re.search(r"/tests[/.]|/locale/|contrib/.*/migrations/", g)]
    for document in real["python"][::20]:
        compile(document.text, document.group, "exec")


def test_real_chitchat_has_the_measured_number_of_conversations(real):
    assert len(real["chitchat"]) == 3165
    turns = Counter(min(d.text.count("\n") + 1, 4) for d in real["chitchat"])
    assert set(turns) == {4}
    assert not any("@" in d.text and ".com" in d.text for d in real["chitchat"])
