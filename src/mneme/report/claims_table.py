"""The claims table as text: for the terminal, and in Markdown for the README."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mneme.report.claims_config import Room
from mneme.stats.verdict import Verdict

Json = Mapping[str, Any]
COLOURS: Mapping[str, str] = {
    "supported": "green",
    "refuted": "red",
    "inconclusive": "yellow",
    "invalid measurement": "magenta",
    "not testable as stated": "blue",
    "not measured": "bright_black",
}
"""Verdict -> colour on a terminal; the verdict itself is always there as text."""
_SIGNS = re.compile(r"[\\`*<|~$&]|(?<!\w)_|_(?!\w)|\](?=[(\[:])")


def render_claims(claims_json: Json, *, width: int, colour: bool) -> str:
    """Lay the claims out for a terminal, by room, after a sentence that counts the verdicts.

    Parameters
    ----------
    claims_json : mapping
        Contents of `claims.json`.
    width : int
        Columns of the terminal; 80 are enough.
    colour : bool
        Whether to add ANSI colours.

    Returns
    -------
    str
        Lines without trailing spaces. Under a statement stands how or why (after an arrow); under
        an effect, what was claimed of it (its smallest size that matters) and its n.
    """
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 0, 1, 0), show_edge=False)
    table.add_column("statement", ratio=20, overflow="fold")
    table.add_column("published", ratio=11, min_width=10, overflow="fold")
    table.add_column("original here", width=8, overflow="fold")
    table.add_column("effect [95 %]", ratio=18, min_width=18, overflow="fold")
    table.add_column("p Holm", width=6, justify="right")
    table.add_column("verdict", width=12)
    for room, claims in _by_room(claims_json):
        table.add_row(Text(room, style="bold"))
        for claim in claims.values():
            table.add_row(*_cells(claim))
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        legacy_windows=False,
        _environ={},  # what the terminal is like is the caller's to say
    )
    console.print(Text(count_verdicts(claims_json)), table, sep="\n")
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def answers_markdown(claims_json: Json, measured: Mapping[str, Json]) -> str:
    """Lay the claims out as GitHub Markdown: per room a line that says whence, and a table.

    Parameters
    ----------
    claims_json : mapping
        Contents of `claims.json`.
    measured : mapping
        Room -> {"commit", "size", "note"}: commit and size at which it was measured (commit may be
        None), and what else a reader should know ("" when nothing).

    Raises
    ------
    ValueError
        `measured` lacks a room that has claims.
    """
    lines = [count_verdicts(claims_json)]
    for room, claims in _by_room(claims_json):
        if room not in measured:
            raise ValueError(f"measured must say where the claims of room {room!r} come from")
        lines += ["", _whence(room, measured[room]), ""]
        lines.append("| claim | published | original here | effect [95 %] | verdict |")
        lines.append("|---|---|---|---|---|")
        lines += [_markdown_row(claim) for claim in claims.values()]
    return "\n".join(lines) + "\n"


def count_verdicts(claims_json: Json) -> str:
    """Return one sentence: how many claims, and how many of each verdict there is."""
    verdicts = [claim["verdict"] for claim in claims_json["runs"].values()]
    counts = [f"{verdicts.count(v)} {v}" for v in _verdicts() if v in verdicts]
    plural = "" if len(verdicts) == 1 else "s"
    return f"{len(verdicts)} claim{plural}: {', '.join(counts) or 'none'}."


def effect_text(effect: Json) -> str:
    """Return value, interval and unit of an effect or control: `0.50 [0.25, 0.75] nats`.

    As its row has them: the reference is added again.
    """
    shift = effect["reference"]
    ends = (effect[key] for key in ("value", "low", "high"))
    value, low, high = (None if end is None else end + shift for end in ends)
    unit = f" {effect['unit']}" if effect["unit"] else ""
    if value is None:
        return "-"
    if low is None or high is None:
        return f"{_number(value)}{unit}"
    places = _places(high - low)
    if places is None:
        return f"{_number(value)} [{_number(low)}, {_number(high)}]{unit}"
    return f"{value:z.{places}f} [{low:z.{places}f}, {high:z.{places}f}]{unit}"


def claimed_text(effect: Json) -> str:
    """Return what is claimed of an effect and what it rests on: `claimed >2, n=50`."""
    reference, n = effect["reference"], effect["n"]
    least, most = (_number(reference + sign * effect["delta"]) for sign in (-1, 1))
    absence = f"{least} to {most}" if reference else f"within ±{most}"
    claimed = {"above": f">{most}", "below": f"<{least}", "none": absence}
    return f"claimed {claimed[effect['direction']]}" + ("" if n is None else f", n={n}")


def _verdicts() -> tuple[str, ...]:
    """Return all verdicts, those on the statement itself first."""
    return tuple(sorted(get_args(Verdict), key=list(COLOURS).index))


def _by_room(claims_json: Json) -> Iterator[tuple[str, dict[str, Json]]]:
    for room in get_args(Room):
        own = [(k, c) for k, c in claims_json["runs"].items() if c["room"] == room]
        if own:
            yield room, dict(sorted(own, key=lambda named: named[1]["place"]))


def _cells(claim: Json) -> Iterator[Text]:
    why = claim["detail"] or claim["reason"]
    yield _two(claim["statement"], f"→ {why}" if why else "")
    yield Text(claim["published"] or "-")
    yield Text(_original(claim))
    yield Text("\n").join(_two(effect_text(e), claimed_text(e)) for e in claim["effects"])
    yield Text(_p(claim["p_holm"]))
    yield Text(claim["verdict"], style=COLOURS[claim["verdict"]])


def _two(first: str, second: str) -> Text:
    """Return a line and, dimmed under it, another one."""
    return Text.assemble(first, (f"\n{second}", "dim")) if second else Text(first)


def _p(p: float | None) -> str:
    if p is None:
        return "-"
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def _number(value: float | None) -> str:
    """Return three significant digits, none of them lost before the point."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value + 0.0:.3g}"


def _original(claim: Json) -> str:
    """Write what the source's protocol gave here; a lag of 0 that stands for "never" as that."""
    if claim["original"] is None and (claim.get("original_reason") or "").startswith("never"):
        return "never (as 0)"
    return _number(claim["original"])


def _places(width: float) -> int | None:
    """Return the places behind the point that show two digits of a width; None for too many."""
    if width <= 0:
        return None
    places = max(0, 1 - math.floor(math.log10(width)))
    return places if places <= 6 else None


def _whence(room: str, measured: Json) -> str:
    commit = f"commit `{measured['commit']}`" if measured["commit"] else "commit unknown"
    note = f"; {_escaped(measured['note'])}" if measured["note"] else ""
    return f"**{room}** ({_escaped(measured['size'])}, {commit}{note})"


def _markdown_row(claim: Json) -> str:
    effects = [f"{effect_text(effect)}; {claimed_text(effect)}" for effect in claim["effects"]]
    why = claim["detail"] or claim["reason"]
    cells = [
        _escaped(claim["statement"]),
        _escaped(claim["published"] or "-"),
        _escaped(_original(claim)),
        "<br>".join(map(_escaped, effects)) or "-",
        f"**{claim['verdict']}**" + (f": {_escaped(why)}" if why else ""),
    ]
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Keep a text one line without markup of Markdown or HTML, except `code`."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(
        part.replace("|", r"\|") if place % 2 else _SIGNS.sub(r"\\\g<0>", part)
        for place, part in enumerate(parts)
    )
