"""Three corpora as documents: Shakespeare's scenes, Django's source files, chit-chat dialogues.

Each document belongs to a group (play, file, conversation); splits are made by group, so that no
text of a group is on both sides. The order of documents is fixed: it is part of the data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mneme.core.artefacts import ArtefactError, write_text

_SPEAKER = re.compile(r"\*\*([^*]+)\*\*")
_DIRECTION_TAIL = re.compile(r"\\?\[[^\]]*\]_")
_EDITORIAL = re.compile(r"_+\\?\[([^\]]*)\]_")
_MARKDOWN_ESCAPE = re.compile(r"\\([^\w\s])")
_LINK_OR_MAIL = re.compile(r"https?:|www\.|\S+@\S+\.\w|\b\w+\.(?:com|org|net)\b", re.IGNORECASE)

# Quirks of the source's markdown. Running heads, song titles and the upper halves of speakers'
# names stand as plain lines in capitals (two kinds of name are not in capitals); the headings of
# two scenes are unmarked; one spoken line of Measure for Measure is in bold like a name.
_NOT_SPOKEN = re.compile(r"[A-Z][A-Z' ]+\.?|Ghosts?|Varro's|Enter [A-Z]{2}.*")
_HEADING = re.compile(r"#|SCENE [IVX]+[:.]")
_NOT_A_SPEAKER = "As long as you or I"


@dataclass(frozen=True)
class Document:
    """One text and the group that is never split."""

    group: str
    """Play, file or conversation."""
    text: str
    """The text, without trailing space."""


def shakespeare(members: Mapping[str, bytes]) -> list[Document]:
    """Return the scenes of the plays: speeches only, a blank line between two.

    Parameters
    ----------
    members : mapping
        Name of a play's markdown file -> content.

    Returns
    -------
    list of Document
        Group = play; speakers' names, headings and stage directions are left out.
    """
    documents = []
    for name in sorted(members):
        play = PurePosixPath(name).stem
        for speeches in scenes(members[name].decode("utf-8")):
            documents.append(Document(play, "\n\n".join(speeches)))
    return documents


def scenes(play: str) -> list[list[str]]:
    """Split one play's markdown into scenes of speeches (lines joined by newlines)."""
    found: list[list[list[str]]] = [[]]
    closing = ""
    for line in play.splitlines():
        line = line.strip()
        speaker = _SPEAKER.fullmatch(line)
        if speaker and speaker[1] == _NOT_A_SPEAKER:
            line, speaker = speaker[1], None
        if _HEADING.match(line) or speaker:
            closing = ""
            if speaker:
                found[-1].append([])
            else:
                found.append([])
        elif closing:  # inside a stage direction of several lines
            closing = "" if line.endswith(closing) else closing
        elif line[:1] in ("_", "*"):
            closing = "" if line.endswith(line[0]) and len(line) > 1 else line[0]
        elif line and found[-1] and not _is_apart(line):
            found[-1][-1].append(_clean(line))
    spoken = [["\n".join(lines) for lines in scene if lines] for scene in found]
    return [scene for scene in spoken if scene]


def _is_apart(line: str) -> bool:
    """Tell half-marked directions and unmarked headings from spoken lines."""
    return bool(_DIRECTION_TAIL.fullmatch(line) or _NOT_SPOKEN.fullmatch(line))


def _clean(line: str) -> str:
    """Undo the source's markdown: editorial brackets, escapes, split ampersands."""
    line = _EDITORIAL.sub(lambda match: match[1].strip(), line)
    return _MARKDOWN_ESCAPE.sub(r"\1", line).replace("& c.", "&c.").rstrip()


def python(members: Mapping[str, bytes], *, min_characters: int) -> list[Document]:
    """Return source files of at least `min_characters` characters; group = file."""
    texts = ((name, members[name].decode("utf-8").rstrip()) for name in sorted(members))
    return [Document(name, text) for name, text in texts if len(text) >= min_characters]


def chitchat(members: Mapping[str, bytes], *, min_turns: int) -> list[Document]:
    """Return conversations of two people, one line a turn; group = conversation.

    Parameters
    ----------
    members : mapping
        The one JSON file: id -> {"messages": turns of {"text", "sender"}}.
    min_turns : int
        Fewest turns that are kept.

    Returns
    -------
    list of Document
        Without conversations of one speaker and those that name a link or an e-mail address.
    """
    (content,) = members.values()
    conversations = json.loads(content)
    return [
        Document(name, text)
        for name in sorted(conversations)
        if (text := _dialogue(conversations[name]["messages"], min_turns)) is not None
    ]


def _dialogue(turns: list[list[dict[str, str]]], min_turns: int) -> str | None:
    speakers = {message["sender"] for turn in turns for message in turn}
    lines = [" ".join(" ".join(m["text"].split()) for m in turn).strip() for turn in turns]
    if len(speakers) != 2 or len(lines) < min_turns or not all(lines):
        return None
    text = "\n".join(lines)
    return None if _LINK_OR_MAIL.search(text) else text


def write_documents(path: str | Path, documents: Iterable[Document]) -> None:
    """Write documents as JSON lines {"group", "text"}, atomically."""
    lines = (json.dumps({"group": d.group, "text": d.text}, ensure_ascii=False) for d in documents)
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_documents(path: str | Path) -> list[Document]:
    """Read documents in file order.

    Raises
    ------
    ArtefactError
        The file is missing, damaged or empty.
    """
    try:
        with open(path, encoding="utf-8") as handle:
            records = [json.loads(line) for line in handle]
        documents = [Document(record["group"], record["text"]) for record in records]
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing: run snakemake again to make it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{path} is damaged ({error}): delete it and run again") from None
    if not documents:
        raise ArtefactError(f"{path} is an empty corpus: delete it and run snakemake again")
    return documents
