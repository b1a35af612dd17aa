"""A comparison of two result folders as text for the terminal, and as Markdown."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]
_WIDTH = 80
_MANY = 12  # settings shown; the dictionary holds all
_LONG = 40  # letters shown of a setting's value
_COLUMNS = ("gpt2", "mistral_7b_fast", "a", "b", "change")
_HEAD = ("", "GPT-2*", "Mistral-7B*", "A", "B", "B - A")
_DIFFERENCE = (
    "B - A is between independent estimates (both intervals, squared and added). The texts are the "
    "same: where they agree across backbones the interval is wider than it had to be."
)


def render_compare(comparison: Json) -> str:
    """Lay a comparison out as text, at most 80 columns but for long names.

    Parameters
    ----------
    comparison : mapping
        What `mneme.report.compare.compare` returns.
    """
    blocks = [
        [*_bulleted([*_folders(comparison), *_differing(comparison["differences"])])],
        ["The source's table (* as published)", "", *_source_text(comparison["source"])],
        ["Claims", "", *_claims_text(comparison["claims"])],
        [f"Model size: {comparison['size']['statement']}", "", *_size_text(comparison["size"])],
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks)


def compare_markdown(comparison: Json) -> str:
    """Lay a comparison out as GitHub Markdown.

    Parameters
    ----------
    comparison : mapping
        What `mneme.report.compare.compare` returns.
    """
    size, source = comparison["size"], comparison["source"]
    differing = _differing(comparison["differences"])
    names = [_escaped(comparison[name]["model_name"]) for name in ("a", "b")]
    blocks = [
        f"# {names[0]} (A) and {names[1]} (B)",
        _list(_folders(comparison)),
        _list(differing),
        "## The source's table",
        _grid(_HEAD, [_source_cells(row) for row in source["rows"]]),
        _list([_escaped(f"\\* {source['notes'][0]}"), *map(_escaped, source["notes"][1:])]),
        "## Claims",
        *_claims_markdown(comparison["claims"]),
        f"## Model size: {_escaped(size['statement'])}",
        *_size_markdown(size),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _folders(comparison: Json) -> list[str]:
    return [f"{name.upper()}: {_folder(comparison[name])}" for name in ("a", "b")]


def _folder(about: Json) -> str:
    size = about["parameters"]
    random = ", random weights" if about["init"] == "random" else ""
    commit = "no commit" if about["commit"] is None else f"commit {about['commit'][:8]}"
    parts = [
        f"{about['model_name']}{random}",
        "size not known" if size is None else f"{size:,} parameters",
        about["dtype"],
        about["device_name"] or "device not known",
        f"{commit}{' with changes' if about['dirty'] else ''}",
        f"settings {about['config_hash'][:8]}",
    ]
    return ", ".join(parts)


def _differing(found: Json) -> list[str]:
    """Say what else differs, one line each."""
    lines = [
        f"only in {name.upper()}: {', '.join(found[f'only_{name}'])}"
        for name in ("a", "b")
        if found[f"only_{name}"]
    ]
    if found["code"]:
        lines.append(f"made by other code or packages: {', '.join(found['code'])}")
    if found["versions"]:
        pairs = (f"{name} {_either(*pair)}" for name, pair in found["versions"].items())
        lines.append(f"versions (A | B): {', '.join(pairs)}")
    for item in found["settings"][:_MANY]:
        where = ", ".join(item["phases"])
        lines.append(f"{item['key']} (A | B): {_either(item['a'], item['b'])} ({where})")
    if len(found["settings"]) > _MANY:
        lines.append(f"and {len(found['settings']) - _MANY} more settings")
    return lines or ["nothing else differs: same settings, code and packages"]


def _either(a: str | None, b: str | None) -> str:
    texts = ("absent" if text is None else text for text in (a, b))
    return " | ".join(text if len(text) <= _LONG else f"{text[:_LONG]}..." for text in texts)


def _source_text(source: Json) -> Iterator[str]:
    cells = [_HEAD, *(_source_cells(row) for row in source["rows"])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        first, *others = line
        padded = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *padded]).rstrip()
    yield ""
    yield from _bulleted(source["notes"])


def _source_cells(row: Json) -> tuple[str, ...]:
    label = f"{row['label']}, {row['unit']}" if row["unit"] else row["label"]
    *shown, change = (_cell(row[name]) for name in _COLUMNS)
    return (label, *shown, _signed(row["change"]) or change)


def _cell(cell: Json) -> str:
    """Show a value, or in a word why there is none."""
    if cell["value"] is not None:
        return _number(cell["value"])
    words = {"not": "-", "never:": "never"}
    return words.get(cell["reason"].split()[0], "undefined")


def _signed(cell: Json) -> str | None:
    if cell["value"] is None:
        return None
    return "identical" if cell["value"] == 0 else f"{cell['value']:+.4g}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def _claims_text(claims: Sequence[Json]) -> Iterator[str]:
    if not claims:
        yield "Neither folder has claims.json."
        return
    for room, group in _by_room(claims):
        yield from (room, "")
        for claim in group:
            yield from _wrapped(f"{claim['claim']}: {claim['statement']}", "  ", "    ")
            yield from _claim_text(claim)
            yield ""
    yield from _wrapped(_DIFFERENCE, "", "")


def _claim_text(claim: Json) -> Iterator[str]:
    for name in ("a", "b"):
        yield from _wrapped(f"{name.upper()}: {_verdict(claim[name])}", "    ", "      ")
    for effect in claim["effects"]:
        yield f"    {_effect_name(effect)}"
        sides = (("A", effect["a"]), ("B", effect["b"]), ("B - A", effect["difference"]))
        for name, side in sides:
            yield from _wrapped(f"{name:<6}{_estimate(side)}", "      ", " " * 12)


def _verdict(block: Json | None) -> str:
    if block is None:
        return "not in this ledger"
    why = [block[key] for key in ("detail", "reason") if block[key]]
    return f"{block['verdict']} ({'; '.join(why)})" if why else block["verdict"]


def _effect_name(effect: Json) -> str:
    """Name the row, what is taken from it, and what is claimed of it."""
    direction, delta = effect["direction"], f"{effect['delta']:.4g}"
    minus = f" minus {effect['reference']:.4g}" if effect["reference"] else ""
    unit = f" {effect['unit']}" if effect["unit"] else ""
    bound = {"above": f"above {delta}", "below": f"below -{delta}", "none": f"within +-{delta}"}
    return f"{effect['address']}{minus} (claimed: {bound[direction]}{unit})"


def _estimate(side: Json) -> str:
    """Show value and interval, or why there is none."""
    if side["value"] is None:
        return f"undefined ({side['reason']})"
    if side["low"] is None or side["high"] is None:
        text = f"{_number(side['value'])} (no interval: {side['reason']})"
    else:
        text = f"{_number(side['value'])} [{_number(side['low'])}, {_number(side['high'])}]"
    return text if side.get("n") is None else f"{text}, n={side['n']}"


def _by_room(claims: Sequence[Json]) -> Iterator[tuple[str, list[Json]]]:
    ordered = sorted(claims, key=lambda claim: claim["room"])
    for room, group in itertools.groupby(ordered, key=lambda claim: claim["room"]):
        yield room, list(group)


def _size_text(size: Json) -> Iterator[str]:
    yield from _wrapped(_size_line(size), "", "  ")
    for effect in size["effects"]:
        yield f"  {_effect_name(effect)}"
        yield from _wrapped(
            f"{_estimate(effect['difference'])}: {_grown(effect)}", "    ", "      "
        )
    yield from _wrapped(size["note"], "", "")


def _size_line(size: Json) -> str:
    larger = "" if size["larger"] is None else f"{size['larger'].upper()} is the larger one. "
    return f"{larger}Verdict: {_verdict(size)}."


def _grown(effect: Json) -> str:
    p = "" if effect["p_holm"] is None else f", p Holm {effect['p_holm']:.2g}"
    return f"{_verdict(effect)}{p}"


def _claims_markdown(claims: Sequence[Json]) -> Iterator[str]:
    if not claims:
        yield "Neither folder has claims.json."
        return
    head = ("Claim", "Effect", "A", "B", "B - A")
    for room, group in _by_room(claims):
        yield f"### {room}"
        yield _grid(head, [cells for claim in group for cells in _claim_cells(claim)])
    yield _DIFFERENCE


def _claim_cells(claim: Json) -> Iterator[tuple[str, ...]]:
    """Yield a line for the verdicts, then one an effect."""
    yield (claim["statement"], "verdict", _verdict(claim["a"]), _verdict(claim["b"]), "")
    for effect in claim["effects"]:
        sides = (effect[name] for name in ("a", "b", "difference"))
        yield ("", _effect_name(effect), *map(_estimate, sides))


def _size_markdown(size: Json) -> Iterator[str]:
    yield _escaped(_size_line(size))
    if size["effects"]:
        rows = [(_effect_name(e), _estimate(e["difference"]), _grown(e)) for e in size["effects"]]
        yield _grid(("Effect", "Larger - smaller", "Grows"), rows)
    yield size["note"]


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_escaped(line)}" for line in lines)


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _bulleted(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        yield from _wrapped(line, "- ", "  ")


def _wrapped(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False
    )
