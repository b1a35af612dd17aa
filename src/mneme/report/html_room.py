"""One room of the HTML report: its phases, figures, values, and what was published of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from mneme.report.html_claims import claim_view
from mneme.report.html_teachers import teacher_table
from mneme.report.html_text import (
    DASH,
    duration,
    interval,
    memory,
    number,
    plain,
    published,
    with_unit,
)
from mneme.report.summary import HEADLINE_ROWS

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Room:
    """What the report says of a room before any number."""

    name: str
    """Folder and config key; the anchor in the page."""
    title: str
    """The mechanism."""
    question: str
    """What is asked of it."""
    phases: Mapping[str, str]
    """Phase -> title, in the order of the page."""


ROOMS = (
    Room(
        name="routing",
        title="TemporalLoRA",
        question="A frozen language model carries one LoRA adapter per domain; a small router, the "
        "Time Mixer, weighs them at every token. Its authors report that the router is slow to "
        "leave a domain, takes another path when it comes back and settles deeper the longer it "
        "stays. Does it, and where would that memory sit?",
        phases={
            "adapters": "Adapters: loss, forgetting, Active Sleep",
            "mixer": "Time Mixers: calibration and accuracy",
            "hysteresis": "Hysteresis and return gap",
            "fatigue": "Fatigue: what grows with dwell",
        },
    ),
    Room(
        name="ttt",
        title="Test-time training",
        question="Does a model that trains its own fast weights on what it reads predict what "
        "follows better, beyond its attention window, and because of that very context?",
        phases={
            "ttt_model": "Meta-training",
            "ttt_adapter": "Dialogue adapters",
            "ttt_grid": "The source's memory test, with control contexts",
            "ttt_context": "Loss by position, and whose context it is",
        },
    ),
    Room(
        name="zeta",
        title="SpacingMDN with a Memory Bank",
        question="A transformer with a Gaussian-mixture head predicts the next spacing between "
        "zeros of the Riemann zeta function; learnt memory slots are added. Do they help, on one "
        "step or on rollouts, and does the network learn random matrices or the primes?",
        phases={
            "zeros": "The zeros",
            "mdn": "Likelihood and rollouts of every arm",
            "slot_ablation": "What each memory slot is worth",
            "diagnostics": "Six diagnoses of the slots",
            "kernel": "Attention against distance",
            "statistics": "Statistics of the zeros and of rollouts",
        },
    ),
    Room(
        name="lattice",
        title="Teacher embedding on a cellular lattice",
        question="Can a teacher's embedding be squeezed 18 times onto a 15 × 15 surface and "
        "processed by a 15 × 15 × 11 cellular lattice so that a question finds its answer, and "
        "does the lattice contribute?",
        phases={"lattice": "Question to answer, beside every baseline"},
    ),
)

SOURCES = {
    "mistral_7b_fast": "Mistral-7B, fast mode",
    "gpt2": "GPT-2",
    "suite_example": "example of the suite",
    "document": "source document",
    "code": "source's code",
    "official": "Tandon et al. 2025",
}
"""Key of `published` -> head of its column."""

COUNTERPARTS = {
    "adapters": {
        "loss.shakespeare": ("sleep", "loss.shakespeare.shakespeare"),
        "loss.python": ("sleep", "loss.python.python"),
    },
    "mixer": {"router_accuracy": ("ours", "token_accuracy")},
    "hysteresis": {
        "test_aba.switch_lag_AB": ("ours", "switch_lag_AB"),
        "test_aba.switch_lag_BA": ("ours", "switch_lag_BA"),
        "test_aba.switching_asymmetry": ("ours", "switching_asymmetry_signed"),
        "test_aba.return_gap_cosine_distance": ("ours", "return_gap_cosine"),
        "test_aba.return_gap_euclidean": ("ours", "return_gap_euclidean"),
        "test_aba.return_gap_dtw": ("ours", "return_gap_dtw"),
        "test_amixba.switch_lag_mixA": ("ours", "switch_lag_mixA"),
        "test_amixba.return_gap_cosine_distance": ("ours", "return_gap_mixed_cosine"),
        "test_amixba.return_gap_euclidean": ("ours", "return_gap_mixed_euclidean"),
        "test_amixba.return_gap_dtw": ("ours", "return_gap_mixed_dtw"),
        "test_amixba.avg_mix_entropy": ("ours", "mix_entropy"),
        "test_amixba.mix_balance": ("ours", "mix_balance"),
    },
    "fatigue": {
        "correlations.deep_crystallization": ("ours", "deep_crystallization_ratio.pearson"),
        "correlations.switch_lag": ("ours", "switch_lag.pearson"),
    },
    "ttt_grid": {
        "original.percent": ("text_second", "percent"),
        "original.delta": ("text_second", "delta"),
        "original_adapter.percent": ("text_second_adapter", "percent"),
    },
    "lattice": {"original.raw_similarity": ("minilm_raw", "eight_related")},
}
"""Phase -> published address -> run and metric of the same quantity as measured by us."""


def room_view(
    room: Room,
    summary: Json,
    headlines: Mapping[str, Json],
    claims: Mapping[str, Json],
    figures: Mapping[str, str],
    captions: Mapping[str, str],
) -> dict[str, Any]:
    """Gather everything the report shows of one room.

    Parameters
    ----------
    room
        The room.
    summary, headlines, figures, captions
        As `mneme.report.html.page` takes them.
    claims : mapping
        Claim id -> block, of this room only.
    """
    shown = [phase for phase in room.phases if phase in headlines]
    return {
        "name": room.name,
        "title": room.title,
        "question": room.question,
        "claims": [claim_view(claim_id, block) for claim_id, block in claims.items()],
        "missing": [phase for phase in room.phases if phase not in headlines],
        "figures": [
            figure_view(name, svg, captions, title)
            for phase, title in room.phases.items()
            for name, svg in figures.items()
            if phase_of(name) == phase
        ],
        "published": [
            table for phase in shown if (table := published_table(headlines[phase], room))
        ],
        "teachers": teacher_table(headlines["lattice"]) if "lattice" in shown else None,
        "headline_values": [
            table for phase in shown if (table := value_table(phase, summary, room.phases[phase]))
        ],
        "steps": step_rows(summary, shown),
    }


def phase_of(figure: str) -> str:
    """Return the phase a figure belongs to: the longest that its name begins with.

    Raises
    ------
    ValueError
        When there is none.
    """
    phases = [phase for room in ROOMS for phase in room.phases]
    found = [phase for phase in phases if f"{figure}_".startswith(f"{phase}_")]
    if not found:
        raise ValueError(f"figures: names must begin with a phase of a room, got {figure!r}")
    return max(found, key=len)


def figure_view(name: str, svg: str, captions: Mapping[str, str], title: str) -> dict[str, Any]:
    """Return a figure as an image that needs no file, with its caption.

    Raises
    ------
    ValueError
        When the caption is missing, or the text is no SVG with a view box.
    """
    if name not in captions:
        raise ValueError(f"captions: every figure needs one, got none for {name!r}")
    size = re.search(r"<svg[^>]*\sviewBox=\"0 0 ([\d.]+) ([\d.]+)\"", svg)
    if size is None:
        raise ValueError(f"figures.{name}: must be an SVG with a viewBox from 0 0")
    width, height = (round(float(part) * 4 / 3) for part in size.groups())  # points to pixels
    return {
        "id": f"figure-{name}",
        "name": name,
        "title": title,
        "source": data_uri(svg),
        "width": width,
        "height": height,
        "alt": plain(captions[name]),
        "caption": captions[name],
    }


def data_uri(svg: str) -> str:
    """Put an SVG into a URI; percent signs only where one is needed, half as long as base64."""
    return "data:image/svg+xml," + quote(svg[svg.index("<svg") :], safe=" /:;=,()!*@$'?[]|{}^`~")


def published_table(headline: Json, room: Room) -> dict[str, Any] | None:
    """Lay the published figures of a phase out beside the original run here and ours.

    Returns
    -------
    dict or None
        `title`, `heads` (columns after the first) and `rows`; None where nothing was published.
    """
    phase, sources = headline["phase"], headline["published"]
    told = {name: _figures(figures) for name, figures in sources.items()}
    addresses = list(dict.fromkeys(address for figures in told.values() for address in figures))
    if not addresses:
        return None
    here = [_original(headline, address) for address in addresses]
    ours = [_ours(headline, address) for address in addresses]
    columns = [[told[name].get(address, DASH) for address in addresses] for name in told]
    heads = [SOURCES.get(name, name) for name in told]
    published_only = len(heads)
    for head, column in (("same protocol here", here), ("ours [95 %]", ours)):
        if set(column) != {DASH}:
            heads.append(head)
            columns.append(column)
    return {
        "title": room.phases[phase],
        "phase": phase,
        "heads": heads,
        "has_measured": len(heads) > published_only,
        "rows": list(zip(addresses, zip(*columns, strict=True), strict=True)),
    }


def _figures(figures: Json) -> dict[str, str]:
    """Write one source's figures; an undefined one with its reason."""
    flat = dict(_flat(figures))
    reasons = {
        key for key in flat if key.removesuffix("_reason") in flat and key.endswith("_reason")
    }
    found = {key: published(value) for key, value in flat.items() if key not in reasons}
    for key in found:
        if f"{key}_reason" in reasons:
            reason = flat[f"{key}_reason"]
            found[key] = f"undefined: {reason}" if flat[key] is None else f"{found[key]} ({reason})"
    return found


def _flat(value: Json, address: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (address, value): keys joined by dots, steps by `@`, the blocks of `tests` as lists."""
    steps = all(key.isdigit() for key in value)  # JSON files sort them as words
    for key, item in sorted(value.items(), key=lambda pair: int(pair[0]) if steps else 0):
        joined = f"{address}@{key}" if address and key.isdigit() else f"{address}.{key}".lstrip(".")
        if isinstance(item, Mapping):
            yield from _flat(item, joined)
        elif isinstance(item, list) and item and isinstance(item[0], Mapping):
            yield from ((inner, [block.get(inner) for block in item]) for inner in item[0])
        else:
            yield joined, item


def _original(headline: Json, address: str) -> str:
    """Write what the source's protocol gave here under a published address."""
    keys = headline["runs"].get("original", {}).get("published_keys", {})
    below = {**keys.get(headline["phase"], {}), "timing": keys.get("timing", {})}
    own = dict(_flat(below))
    if address in own:
        value = own[address]
        told = [number(v) for v in value] if isinstance(value, list) else [number(value)]
        return " / ".join("undefined" if text == DASH else text for text in told)
    run, _, metric = address.partition(".")
    found = _by_run(headline, run, metric) or _by_run(headline, "original", address)
    if len(found) == 1:
        return next(iter(found.values()))
    return "; ".join(f"{name}: {text}" for name, text in found.items()) or DASH


def _by_run(headline: Json, run: str, metric: str) -> dict[str, str]:
    """Return run -> value, of a run and of its numbered variants (`original_0_27`)."""
    named = re.compile(rf"{re.escape(run)}(_\d[\d_]*)?")
    rows = {
        name: _row(block, metric)
        for name, block in headline["runs"].items()
        if named.fullmatch(name)
    }
    return {name: _told(row) for name, row in rows.items() if row is not None}


def _ours(headline: Json, address: str) -> str:
    run, metric = COUNTERPARTS.get(headline["phase"], {}).get(address, ("", ""))
    row = _row(headline["runs"].get(run, {}), metric)
    return DASH if row is None else _told(row)


def _row(block: Json, metric: str) -> Json | None:
    """Return the row of a metric over all seeds, else that of the first seed."""
    rows = [row for row in block.get("rows", ()) if row["metric"] == metric]
    return min(rows, key=lambda row: -1 if row["seed"] is None else row["seed"], default=None)


def _told(row: Json) -> str:
    if row["value"] is None:
        return f"undefined: {row['reason']}"
    return with_unit(interval(row["value"], row["low"], row["high"]), row["unit"])


def value_table(phase: str, summary: Json, title: str) -> dict[str, Any] | None:
    """List the headline values of a phase (`HEADLINE_ROWS`), and say how many are left out."""
    wanted = re.compile("|".join(f"(?:{rows})" for rows in HEADLINE_ROWS))
    rows, others = [], 0
    for run, metrics in summary["values"].get(phase, {}).items():
        for metric, row in metrics.items():
            if wanted.fullmatch(f"{phase} {run} {metric}"):
                rows.append(_value(run, metric, row))
            else:
                others += 1
    return {"title": title, "phase": phase, "rows": rows, "others": others} if rows else None


def _value(run: str, metric: str, row: Json) -> dict[str, Any]:
    return {
        "run": run,
        "metric": metric,
        "value": _told(row),
        "missing": row["value"] is None,
        "n": number(row["n"]),
        "control_of": row["control_of"],
    }


def step_rows(summary: Json, phases: Sequence[str]) -> list[dict[str, Any]]:
    """List what every step of these phases cost; a step without a record says why."""
    return [
        {
            "phase": phase,
            "step": step["step"],
            "seconds": duration(step["seconds"]),
            "memory": memory(step["peak_memory_mb"]),
            "device": step["device_name"] or step["device"] or DASH,
            "reason": step["reason"],
        }
        for phase in phases
        for step in summary["phases"].get(phase, {}).get("steps", ())
    ]
