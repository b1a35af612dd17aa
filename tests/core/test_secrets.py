"""Planted tokens never come through; ordinary text is left as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mneme.core.secrets import HIDDEN, known_secrets, redact

ROOT = Path(__file__).parents[2]
HUB = "hf_" + "aB3" * 11  # the form of a real token
WORDS = {"HOME": "/nowhere"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"401 for token {HUB}!", f"401 for token {HIDDEN}!"),
        (f"old api_org_{'x' * 34}", f"old {HIDDEN}"),
        (f"clone with ghp_{'aB3' * 12}.", f"clone with {HIDDEN}."),
        (f"github_pat_11{'a_B' * 12}", HIDDEN),
        (f"token eyJhbGciOiJI.{'eyJzdWIi' * 3}.{'x-_9' * 6}: no", f"token {HIDDEN}: no"),
        ("GET https://user:pass@host/a", f"GET https://{HIDDEN}@host/a"),
        ("GET https://onlytoken@host:8/a?b=1", f"GET https://{HIDDEN}@host:8/a?b=1"),
        ("https://user:p@ss:w@host/x and https://b@c", f"https://{HIDDEN}@host/x and https://{HIDDEN}@c"),
        ("'authorization': 'Bearer abcdefghijklmnop.q'", f"'authorization': 'Bearer {HIDDEN}'"),
        ("basic dXNlcjpwYXNzd29yZA==", f"basic {HIDDEN}"),
        (
            "https://h/f?X-Amz-Signature=ab%2Fc&Expires=9&Key-Pair-Id=k&token=t'",
            f"https://h/f?X-Amz-Signature={HIDDEN}&Expires=9&Key-Pair-Id=k&token={HIDDEN}'",
        ),
    ],
)  # fmt: skip
def test_secrets_are_known_by_their_form(text, shown):
    assert redact(text, environ=WORDS) == shown


NAMES = (
    "HF_TOKEN",
    "hf_token",
    "HUGGING_FACE_HUB_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "OPENAI_API_KEY",
    "DB_PASSWORD",
    "SSH_PASSPHRASE",
    "GITHUB_TOKEN_2",
    "X_CREDENTIALS",
    "SSL_PRIVATE_KEY",
    "HFTOKEN",
    "PGPASSWORD",
    "SLURM_JWT",
    "GITHUB_PAT",
    "NPM_CONFIG__AUTH",
)


@pytest.mark.parametrize("name", NAMES)
def test_secrets_are_known_by_the_name_of_their_variable(name):
    assert redact("a plain-secret b", environ={name: "plain-secret", **WORDS}) == f"a {HIDDEN} b"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "disabled"),
        ("HF_TOKEN_PATH", "/nowhere/token"),
        ("KEYBOARD", "qwertyuiop"),
        ("PATH", "/usr/local/bin"),
        ("SPAT", "qwertyuiop"),
        ("PYTHONPATH", "/usr/local/src"),
        ("SSH_AUTH_SOCK", "/nowhere/agent"),
        ("SUBTOKENS", "12345678"),
        ("MAX_TOKENS_READ", "12345678"),
        ("HF_TOKEN", "short"),
        ("HF_TOKEN", ""),
        ("HF_TOKEN", "   "),
    ],
)
def test_other_variables_hide_nothing(name, value):
    text = f"a {value} b"
    assert redact(text, environ={name: value, **WORDS}) == text


def test_credentials_of_an_address_in_a_variable_are_hidden_wherever_they_stand():
    environ = {"PIP_INDEX_URL": "https://user:pass%21word@index/simple", **WORDS}
    assert known_secrets(environ) == ("pass%2521word", "pass%21word", "pass!word")
    assert redact("(pass!word) pass%21word", environ=environ) == f"({HIDDEN}) {HIDDEN}"


@pytest.mark.parametrize(
    ("place", "environ"),
    [
        ("kept", {"HF_TOKEN_PATH": "{folder}/kept"}),
        ("token", {"HF_HOME": "{folder}"}),
        ("huggingface/token", {"XDG_CACHE_HOME": "{folder}"}),
        (".cache/huggingface/token", {"HOME": "{folder}"}),
    ],
)
def test_the_hubs_own_token_file_is_known(tmp_path, place, environ):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("of-another-hub\n")
    given = {name: value.format(folder=tmp_path) for name, value in environ.items()}
    assert redact("of-another-hub", environ=given) == HIDDEN


def test_a_token_file_that_is_no_text_is_passed_over(tmp_path):
    (tmp_path / "token").write_bytes(b"\xff\xfe\xfa")
    assert redact("x", environ={"HF_HOME": str(tmp_path)}) == "x"


def test_the_place_of_the_token_file_is_the_hubs(monkeypatch, tmp_path):
    """The oracle is the hub's client, which reads its places when it is imported."""
    (tmp_path / "token").write_text("of-another-hub")
    environ = {**os.environ, "HF_HOME": str(tmp_path)}
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        environ.pop(name, None)
    program = "import huggingface_hub; print(huggingface_hub.get_token())"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() in known_secrets(environ)


@examples(max_examples=200, deadline=None)
@given(
    secret=st.text("abcXYZ0189-_.:/@%+&=?#", min_size=8, max_size=40),
    before=st.text("a\u044f (\n\"'", max_size=9),
    after=st.text("a\u044f )\n\"'", max_size=9),
)
def test_no_planted_value_comes_through_in_any_surroundings(secret, before, after):
    environ = {"HF_TOKEN": secret, **WORDS}
    for form in (secret, quote(secret, safe="")):
        shown = redact(before + form + after, environ=environ)
        assert form not in shown
        assert redact(shown, environ=environ) == shown


def test_the_longer_of_two_secrets_is_hidden_whole():
    environ = {"A_TOKEN": "12345678", "B_TOKEN": "12345678-and-more", **WORDS}
    assert redact("12345678-and-more 12345678", environ=environ) == f"{HIDDEN} {HIDDEN}"


def test_what_the_project_writes_holds_nothing_that_looks_like_a_secret():
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.json")]
    assert len(files) > 30
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert redact(text, environ=WORDS) == text, path
