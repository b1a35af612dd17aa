"""The HTML report says what the files say, escapes it, and stands on its own."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from html_results import (
    CAPTIONS,
    SVG,
    claim,
    claims,
    effect,
    figures,
    headline,
    headlines,
    row,
    summary,
)
from hypothesis import given
from hypothesis import strategies as st

from mneme.report.html import page
from mneme.report.html_claims import WIDTH, claim_view, counts, sentence, strip
from mneme.report.html_room import (
    ROOMS,
    data_uri,
    figure_view,
    phase_of,
    published_table,
    room_view,
)
from mneme.report.html_teachers import teacher_table
from mneme.report.html_text import (
    duration,
    inline,
    interval,
    number,
    p_value,
    plain,
    published,
    with_unit,
)
from mneme.report.summary import validate

VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """Elements, ids, links, text; every element must be closed where it belongs."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.words = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "a":
            self.links.append(attrs["href"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def of(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def made(files=None, pictures=None):
    files = headlines() if files is None else files
    return page(summary(files), files, figures() if pictures is None else pictures, CAPTIONS)


@pytest.fixture(scope="module")
def text():
    return made()


@pytest.fixture(scope="module")
def parsed(text):
    return Page(text)


def test_input_is_what_a_summary_is():
    validate(summary(headlines()), "summary", name="summary.json")
    for phase, file in headlines().items():
        validate(file, "frame", name=phase)


def test_the_page_is_well_formed_and_every_link_resolves(parsed):
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert all(link.startswith("#") and link[1:] in parsed.ids for link in parsed.links)
    assert parsed.links[0] == "#main"
    assert len(parsed.of("h1")) == 1
    assert parsed.of("html") == [{"lang": "en"}]


def test_the_page_needs_nothing_else(parsed):
    assert not parsed.of("script")
    for attrs in (attrs for _, attrs in parsed.tags):
        assert not [name for name in attrs if name.startswith("on")]
        assert attrs.get("src", "data:").startswith("data:")
        assert attrs.get("href", "#").startswith(("#", "data:"))
    style = "".join(parsed.words[: parsed.words.index("Skip to the claims")])
    assert "url(" not in style
    assert "@import" not in style


def test_tables_name_their_columns_and_scroll_in_a_focusable_box(parsed):
    assert len(parsed.of("table")) == len(parsed.of("caption"))
    assert all("scope" in attrs for attrs in parsed.of("th"))
    boxes = [a for a in parsed.of("div") if a.get("class", "").split()[:1] == ["scroll"]]
    assert len(boxes) == len(parsed.of("table")) + len(parsed.of("figure"))
    assert all(box["tabindex"] == "0" and box["role"] and box["aria-label"] for box in boxes)


def test_claims_come_first_with_their_counts(text, parsed):
    assert text.index('id="claims"') < text.index('id="routing"') < text.index('id="costs"')
    told = "Of 6 claims 1 is supported, 1 is refuted, 1 is inconclusive, "
    assert told + "1 is not testable as stated, 1 is not validly measured and 1 is not measured."
    assert told in parsed.text
    assert "✗ refuted" in parsed.text
    assert "real but smaller than matters" in parsed.text
    assert "0.42 [0.11, 0.74] tokens" in parsed.text
    assert "undefined: every share is 0" in parsed.text
    assert "and 1 more" in parsed.text
    assert "312" in parsed.text
    assert "compare long_long_" in parsed.text
    for claim_id in claims():
        assert f"claim-{claim_id}" in parsed.ids


def test_everything_is_escaped(text, parsed):
    assert "Leaving <takes> longer & longer" in parsed.text
    assert "Leaving &lt;takes&gt; longer &amp; longer" in text
    assert "<takes>" not in text
    assert "<code>original</code> reads &lt;it&gt;" in text


def test_a_room_without_phases_and_claims_is_left_out_and_named(parsed):
    assert "Not measured in this run: room ttt , room zeta , room lattice ." in parsed.text
    assert "routing" in parsed.ids
    assert "zeta" in parsed.ids  # it has a claim
    assert "ttt" not in parsed.ids
    assert "Not in this run: adapters , mixer ." in parsed.text


def test_without_claims_the_page_says_so():
    files = {phase: file for phase, file in headlines().items() if phase == "fatigue"}
    parsed = Page(made(files, {"fatigue": SVG}))
    assert "No claim was judged: claims.json is not among the results." in parsed.text
    assert not parsed.of("article")
    assert all(link[1:] in parsed.ids for link in parsed.links)


def test_figures_carry_their_caption(parsed):
    images = {a["alt"]: a for a in parsed.of("img")}
    assert set(images) == {"Run ours & controls.", "What <grows>.", "Training."}
    assert images["What <grows>."]["width"] == "960"
    assert "figure-hysteresis" in parsed.ids


def test_published_stands_beside_the_same_protocol_and_ours():
    files = headlines()
    table = published_table(files["hysteresis"], ROOMS[0])
    assert table["heads"] == ["Mistral-7B, fast mode", "GPT-2", "same protocol here", "ours [95 %]"]
    rows = {
        address: [cell.replace("\u00a0", " ") for cell in cells] for address, cells in table["rows"]
    }
    assert rows["test_aba.switch_lag_BA"] == ["9", "–", "4", "5.5 [4.0, 7.0] tokens"]
    assert rows["test_aba.switch_lag_AB"] == ["undefined: never left", "–", "undefined", "–"]
    gap = rows["test_aba.return_gap_cosine_distance"]
    assert gap == ["–", "0.1909", "–", "undefined: one text only"]
    (tail,) = published_table(files["fatigue"], ROOMS[0])["rows"]
    assert tail == ("tail_area_32", ("2.846 / 5.541", "1.250 / 3.500"))
    assert published_table(files["claims"], ROOMS[0]) is None


def test_published_addresses_may_name_runs_and_steps():
    runs = {
        "original_0": {"rows": [row("loss@2", 0.5, unit=""), row("loss@10", 0.25, unit="")]},
        "original_0_27": {"rows": [row("loss@2", 0.75, unit="")]},
        "original_adapter": {"rows": [row("loss@2", 9.0)]},
    }
    file = headline("lattice", runs, {"document": {"original.loss": {"10": 0.1, "2": 0.36}}})
    rows = dict(published_table(file, ROOMS[-1])["rows"])
    assert list(rows) == ["original.loss@2", "original.loss@10"]
    assert rows["original.loss@2"] == ("0.36", "original_0: 0.5000; original_0_27: 0.7500")
    assert rows["original.loss@10"] == ("0.1", "0.2500")


def test_teachers_are_compared_in_one_table():
    block = lambda teacher, arm, *rows: {  # noqa: E731
        "teacher": teacher,
        "arm": arm,
        "width": 384,
        "questions": 600,
        "rows": list(rows),
    }
    runs = {
        "b_raw": block("b", "raw", row("mrr", 0.25, unit="")),
        "b_lattice": block(
            "b", "lattice", row("mrr_minus_adapter", 0.5, low=0.25, high=0.75, unit="")
        ),
        "a_raw": block("a", "raw", row("mrr", 0.125, unit="")),
        "original_0": {"rows": [row("loss@2", 0.5, unit="")]},
    }
    table = teacher_table(headline("lattice", runs))
    assert [teacher for teacher, _ in table["rows"]] == ["a", "b"]
    cells = dict(zip(table["heads"], dict(table["rows"])["b"], strict=True))
    assert (cells["numbers"], cells["questions"], cells["raw"]) == ("384", "600", "0.2500")
    assert cells["lattice less adapter"].replace("\u00a0", " ") == "0.50 [0.25, 0.75]"
    assert cells["best PCA"] == "–"
    assert teacher_table(headline("lattice", {"original_0": runs["original_0"]})) is None
    files = {"lattice": headline("lattice", runs)}
    room = room_view(ROOMS[-1], summary(files), files, {}, {}, {})
    assert room["teachers"] == table


def test_headline_values_and_what_is_left_out(parsed):
    assert "Hysteresis and return gap (2 values)" in parsed.text
    assert "1 more (other runs, controls, curves) are in hysteresis.json" in parsed.text
    assert "undefined: one text only" in parsed.text


def test_costs_and_provenance(parsed):
    for told in ("2\u202fh 6\u202fmin", "1\u202f234\u202fMiB", "not known: its record is missing"):
        assert told in " ".join(parsed.words)
    assert "f" * 40 in parsed.text
    assert "commit ffffffffff with uncommitted changes" in parsed.text
    assert "phase5_hysteresis_sec" in parsed.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pictures": {"nothing": SVG}}, "figures: names must begin with a phase"),
        ({"pictures": {"mixer": SVG}}, "captions: every figure needs one, got none for 'mixer'"),
        ({"pictures": {"fatigue": "<svg>"}}, "figures.fatigue: must be an SVG with a viewBox"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        made(**change)


def test_an_unknown_room_or_verdict_is_named():
    for wrong, message in (
        (claim("refuted", room="kitchen"), "one.room must be one of routing, ttt, zeta, lattice"),
        (claim("maybe"), "verdict must be one of supported, .*; got 'maybe'"),
    ):
        files = headlines()
        files["claims"]["runs"] = {"one": wrong}
        with pytest.raises(ValueError, match=message):
            made(files)


def test_sentence():
    two = {"a": claim("refuted"), "b": claim("refuted")}
    assert sentence(two) == "Of 2 claims 2 are refuted."
    assert sentence({"a": claim("supported")}) == "Of 1 claim 1 is supported."
    assert sentence({}) == "No claim was judged."
    assert [(v.name, n) for v, n in counts(two)] == [("refuted", 2)]


def test_where_an_interval_has_to_lie():
    block = claim(
        "refuted",
        effects=[effect(1, 0, 2), effect(1, 0, 2, direction="none", delta=0.5)],
        positives=[effect(1, 0, 2, direction="below", ok=False)],
        nulls=[effect(1, 0, 2, ok=True), effect(1, 0, 2, direction="below", ok=True)],
    )
    view = claim_view("x", block)
    assert [entry["claimed"] for entry in view["tested"]] == [
        "above 2",
        "within ±0.5",
        "below −2",
        "below 2",
        "above −2",
    ]
    assert view["tested_counts"] == "2 effects, 1 positive control, 2 null runs"
    assert view["tested"][0]["outcome"] == "–"
    assert [e["outcome"] for e in view["tested"][2:]] == ["not as it must", *["as it must"] * 2]


def test_values_seeds_and_bounds_are_told_as_the_row_has_them():
    spread = {"seeds": 3, "seed_low": 0.25, "seed_high": 1.75, "reference": 6.5, "delta": 3.5}
    effects = [effect(1, 0, 2, direction="none", **spread), effect(1, 0, 2)]
    tested = claim_view("x", claim("refuted", effects=effects))["tested"]
    assert [entry["further"] for entry in tested] == ["3 seeds 6.75 to 8.25", ""]
    assert [entry["claimed"] for entry in tested] == ["3 to 10", "above 2"]
    assert tested[0]["value"].startswith("7.5")


def test_an_effect_without_value_stands_in_the_table_of_tests_only():
    missing = effect(None, None, None, n=None, unit=None, reason="no text switched", ok=None)
    own = effect(1.0, 0.5, 1.5, verdict="refuted", detail="real but smaller than matters")
    view = claim_view("x", claim("not measured", effects=[missing, own], positives=[missing]))
    assert [e["value"] for e in view["effects"]] == ["1.00\u00a0[0.50,\u00a01.50] tokens"]
    assert [entry["outcome"] for entry in view["tested"]] == [
        "no text switched",
        "refuted: real but smaller than matters",
        "no text switched",
    ]


numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 6))


@given(numbers, numbers, numbers, st.floats(1e-6, 1e6), st.sampled_from(("above", "below", "none")))
def test_a_strip_keeps_the_order_of_what_it_draws(a, b, c, delta, direction):
    low, value, high = sorted((a, b, c))
    for null in (False, True):
        place = strip(effect(value, low, high, direction=direction, delta=delta), null=null)
        assert 0 <= place["low"] <= place["value"] <= place["high"] <= WIDTH
        assert 0 <= place["zero"] <= WIDTH
        start, width = place["zone"]
        assert start >= 0
        assert width >= 0
        assert start + width <= WIDTH + 0.01
        inside = start <= place["zero"] <= start + width
        assert inside or not (null or direction == "none")


def test_a_strip_without_interval_or_value():
    assert strip(effect(None, None, None), null=False) is None
    place = strip(effect(1.0, None, None), null=False)
    assert (place["low"], place["high"]) == (None, None)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "–"),
        (9.0, "9"),
        (-0.0, "0"),
        (45918613, "45\u202f918\u202f613"),
        (0.33954, "0.3395"),
        (-12.3456, "−12.35"),
        (0.00019424, "0.0001942"),
        (1.94e-7, "1.940\u202f·\u202f10⁻⁷"),
        (-3e-12, "−3.000\u202f·\u202f10⁻¹²"),
    ],
)
def test_number(value, written):
    assert number(value) == written


@pytest.mark.parametrize(
    ("ends", "written"),
    [
        ((5.5, 4.0, 7.0), "5.5 [4.0, 7.0]"),
        ((0.0855, 0.0232, 0.1213), "0.086 [0.023, 0.121]"),
        ((1234.4, 1100.0, 1400.0), "1\u202f234 [1\u202f100, 1\u202f400]"),
        ((-0.004, -0.01, 0.0002), "−0.0040 [−0.0100, 0.0002]"),
        ((2.0, 2.0, 2.0), "2.00 [2.00, 2.00]"),
        ((0.0, 0.0, 0.0), "0 [0, 0]"),
        ((None, None, None), "–"),
        ((0.5, None, None), "0.5000"),
    ],
)
def test_interval(ends, written):
    assert interval(*ends).replace("\u00a0", " ") == written


def test_p_value():
    told = [p_value(p) for p in (None, 0.0, 0.00099, 0.001, 0.0312, 0.0999, 0.5, 1.0)]
    assert told == ["–", "< 0.001", "< 0.001", "0.001", "0.031", "0.10", "0.50", "1.00"]


def test_published_figures_keep_their_digits():
    assert published(0.3395) == "0.3395"
    assert published(-0.5721) == "−0.5721"
    assert published(0.06) == "0.06"
    assert published(1.0) == "1"
    assert published(45_918_613) == "45\u202f918\u202f613"
    assert published([8192, True, None, "of 3"]) == "8\u202f192 / yes / – / of 3"


def test_duration_and_unit():
    assert [duration(s) for s in (None, 0.04, 59.94)] == ["–", "0.0\u202fs", "59.9\u202fs"]
    assert duration(59.96) == "1\u202fmin 0\u202fs"
    assert duration(3599.6) == "1\u202fh 0\u202fmin"
    assert with_unit("3", "nats") == "3 nats"
    assert with_unit("–", "nats") == "–"
    assert with_unit("3", "") == "3"


def test_inline_markup():
    assert inline("``a*b``, `c` **d e** *f*\n g") == (
        "<code>a*b</code>, <code>c</code> <strong>d e</strong> <em>f</em> g"
    )
    assert inline("2 * 3 * 4 <b> a*b*c") == "2 * 3 * 4 &lt;b&gt; a*b*c"
    assert plain("``x`` & <y>") == "x & <y>"


def test_a_data_uri_gives_the_figure_back():
    svg = 'x<svg a="#%&\'é\n"><![CDATA[ü]]></svg>'
    uri = data_uri(svg)
    assert unquote(uri.partition(",")[2]) == svg[1:]
    assert not re.search(r"[\s\"<>#]", uri.replace(" ", ""))


def test_a_figure_belongs_to_the_longest_phase():
    assert phase_of("mdn_training") == "mdn"
    assert phase_of("ttt_adapter") == "ttt_adapter"
    assert figure_view("mdn_training", SVG, CAPTIONS, "T")["caption"] == "Training."
