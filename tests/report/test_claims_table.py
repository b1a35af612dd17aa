"""The claims table on a terminal and in Markdown."""

from __future__ import annotations

import copy
import re

import pytest
from rich.cells import cell_len

from mneme.report.claims_measured import NEVER
from mneme.report.claims_table import (
    answers_markdown,
    claimed_text,
    count_verdicts,
    effect_text,
    render_claims,
)

EFFECT = {
    "address": "hysteresis ours lag",
    "reference": 0.0,
    "value": 5.75,
    "low": 4.5,
    "high": 6.75,
    "n": 50,
    "unit": "tokens",
    "direction": "above",
    "delta": 2.0,
}
BLOCK = {
    "place": 0,
    "room": "routing",
    "statement": "Coming back to a domain takes longer than entering it",
    "published": "9 tokens",
    "original": 9.0,
    "effects": [EFFECT],
    "p_holm": 0.0123,
    "verdict": "supported",
    "detail": None,
    "reason": None,
}
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def block(**changes):
    return copy.deepcopy({**BLOCK, **changes})


def ledger(**claims):
    return {"phase": "claims", "runs": claims}


@pytest.fixture
def claims():
    absent = {**EFFECT, "value": None, "low": None, "high": None, "n": None, "unit": None}
    return ledger(
        squeeze=block(room="lattice", verdict="not measured", reason="no lattice.json", p_holm=None)
        | {"effects": [absent], "original": None, "published": ""},
        lag=block(),
        gap=block(verdict="refuted", detail="real but smaller than matters", p_holm=1e-5),
        slots=block(room="zeta", effects=[], verdict="not testable as stated", reason="no slots"),
    )


MEASURED = {
    "routing": {"commit": "abc1234", "size": "long", "note": "one backbone"},
    "zeta": {"commit": None, "size": "long", "note": ""},
    "lattice": {"commit": "def5678", "size": "default", "note": ""},
}


# Numbers


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((5.75, 4.5, 6.75, "tokens"), "5.8 [4.5, 6.8] tokens"),
        ((0.0346, 0.0012, 0.0681, ""), "0.035 [0.001, 0.068]"),
        ((-0.0001, -0.04, 0.04, "nats"), "0.000 [-0.040, 0.040] nats"),
        ((1234.4, 1200.2, 1300.9, "s"), "1234 [1200, 1301] s"),
        ((1.0, 1.0, 1.0, "fraction"), "1 [1, 1] fraction"),
        ((1e-9, 0.5e-9, 2e-9, ""), "1e-09 [5e-10, 2e-09]"),
        ((0.12345, None, None, "nats"), "0.123 nats"),
        ((None, None, None, None), "-"),
    ],
)
def test_an_interval_shows_two_digits_of_its_width(numbers, text):
    value, low, high, unit = numbers
    effect = {**EFFECT, "value": value, "low": low, "high": high, "unit": unit}
    assert effect_text(effect) == text


@pytest.mark.parametrize(
    ("direction", "reference", "delta", "n", "text"),
    [
        ("above", 0.0, 2.0, 50, "claimed >2, n=50"),
        ("below", 0.0, 0.05, 50, "claimed <-0.05, n=50"),
        ("none", 0.0, 0.1, None, "claimed within ±0.1"),
        ("above", -0.05, 0.02, 50, "claimed >-0.03, n=50"),
        ("below", 2.5, 0.5, 50, "claimed <2, n=50"),
        ("none", 6.5, 3.5, None, "claimed 3 to 10"),
    ],
)
def test_what_is_claimed_is_told_in_the_units_of_the_row(direction, reference, delta, n, text):
    effect = {"direction": direction, "reference": reference, "delta": delta, "n": n}
    assert claimed_text(effect) == text


def test_an_effect_is_shown_as_its_row_has_it():
    assert effect_text({**EFFECT, "reference": 6.5}) == "12.2 [11.0, 13.2] tokens"


def test_claims_stand_in_the_order_of_the_ledger():
    claims = ledger(a=block(place=2, statement="third"), b=block(place=0, statement="first"))
    claims["runs"]["c"] = block(place=1, statement="second")
    shown = render_claims(claims, width=100, colour=False)
    assert shown.index("first") < shown.index("second") < shown.index("third")


def test_the_verdicts_are_counted(claims):
    told = "4 claims: 1 supported, 1 refuted, 1 not testable as stated, 1 not measured."
    assert count_verdicts(claims) == told
    assert count_verdicts(ledger(a=block())) == "1 claim: 1 supported."
    assert count_verdicts(ledger()) == "0 claims: none."


# Terminal


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_no_line_is_too_long_and_none_ends_in_spaces(claims, width):
    lines = render_claims(claims, width=width, colour=False).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)


def test_everything_is_there_at_80_columns(claims):
    text = render_claims(claims, width=80, colour=False)
    words = " ".join(text.split())
    for part in ("9 tokens", "5.8 [4.5, 6.8]", "claimed >2, n=50", ".012", "supported", "<.001"):
        assert part in words
    for part in ("→ real but smaller", "→ no slots", "→ no", "not measured", "p Holm"):
        assert part in words
    assert words.index("routing") < words.index("zeta") < words.index("lattice")


def test_the_verdict_stays_whole_beside_its_claim(claims):
    lines = render_claims(claims, width=80, colour=False).splitlines()
    first = next(line for line in lines if line.startswith("Coming back"))
    assert first.endswith(".012 supported")


def test_colours_only_when_asked(claims):
    plain = render_claims(claims, width=80, colour=False)
    coloured = render_claims(claims, width=80, colour=True)
    assert "\x1b" not in plain
    assert "\x1b[32msupported" in coloured
    unpainted = [line.rstrip() for line in ESCAPES.sub("", coloured).splitlines()]
    assert unpainted == plain.splitlines()


def test_the_environment_has_no_say(claims, monkeypatch):
    expected = [render_claims(claims, width=80, colour=colour) for colour in (False, True)]
    for name, value in {"NO_COLOR": "1", "FORCE_COLOR": "1", "COLUMNS": "20"}.items():
        monkeypatch.setenv(name, value)
        found = [render_claims(claims, width=80, colour=colour) for colour in (False, True)]
        assert found == expected


def test_texts_are_no_markup_of_rich():
    odd = block(statement="[red]r[/red] [/] [link=x]", published="[bold]9", detail="[/dim]")
    text = render_claims(ledger(a=odd), width=160, colour=False)
    for part in ("[red]r[/red] [/] [link=x]", "[bold]9", "→ [/dim]"):
        assert part in text


# Markdown


def test_the_answers_name_size_and_commit_of_every_room(claims):
    assert answers_markdown(claims, MEASURED) == (
        "4 claims: 1 supported, 1 refuted, 1 not testable as stated, 1 not measured.\n"
        "\n"
        "**routing** (long, commit `abc1234`; one backbone)\n"
        "\n"
        "| claim | published | original here | effect [95 %] | verdict |\n"
        "|---|---|---|---|---|\n"
        "| Coming back to a domain takes longer than entering it | 9 tokens | 9 | "
        "5.8 [4.5, 6.8] tokens; claimed >2, n=50 | **supported** |\n"
        "| Coming back to a domain takes longer than entering it | 9 tokens | 9 | "
        "5.8 [4.5, 6.8] tokens; claimed >2, n=50 | **refuted**: real but smaller than matters |\n"
        "\n"
        "**zeta** (long, commit unknown)\n"
        "\n"
        "| claim | published | original here | effect [95 %] | verdict |\n"
        "|---|---|---|---|---|\n"
        "| Coming back to a domain takes longer than entering it | 9 tokens | 9 | "
        "- | **not testable as stated**: no slots |\n"
        "\n"
        "**lattice** (default, commit `def5678`)\n"
        "\n"
        "| claim | published | original here | effect [95 %] | verdict |\n"
        "|---|---|---|---|---|\n"
        "| Coming back to a domain takes longer than entering it | - | - | "
        "-; claimed >2 | **not measured**: no lattice.json |\n"
    )


def test_a_lag_that_was_never_reached_is_not_shown_as_zero(claims):
    claims["runs"]["lag"] |= {"original": None, "original_reason": NEVER}
    (line,) = (x for x in answers_markdown(claims, MEASURED).splitlines() if "never" in x)
    assert "| never (as 0) |" in line
    assert "never" in render_claims(claims, width=100, colour=False).split()


def test_several_effects_share_a_cell():
    both = block(effects=[EFFECT, {**EFFECT, "value": 1.0, "low": 0.5, "high": 1.5}])
    row = answers_markdown(ledger(a=both), MEASURED).splitlines()[-1]
    assert row.count(" | ") == 4
    assert "n=50<br>1.0 [0.5, 1.5] tokens" in row


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("p(a|b)", r"p(a\|b)"),
        ("*x* and _y_", r"\*x\* and \_y\_"),
        ("switch_lag_BA", "switch_lag_BA"),
        ("<b> & $5 ~x~", r"\<b> \& \$5 \~x\~"),
        ("[a](b) [c][d] [1]", r"[a\](b) [c\][d] [1]"),
        ("`mneme a|b *x*` and `", r"`mneme a\|b *x*` and \`"),
        ("two\nlines  here", "two lines here"),
        ("back\\slash", r"back\\slash"),
    ],
)
def test_texts_are_no_markdown(text, escaped):
    odd = ledger(a=block(statement=text, published=text, detail=text))
    row = answers_markdown(odd, MEASURED).splitlines()[-1]
    assert row.startswith(f"| {escaped} | {escaped} | ")
    assert row.endswith(f"**supported**: {escaped} |")


def test_a_room_that_was_measured_nowhere_is_a_mistake(claims):
    with pytest.raises(ValueError, match="measured must say where the claims of room 'zeta'"):
        answers_markdown(claims, {k: v for k, v in MEASURED.items() if k != "zeta"})
