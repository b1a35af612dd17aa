"""Take tokens and passwords out of every text that is shown or kept.

Two nets: values that this process holds (environment variables with a telling name, credentials
inside their addresses, the hub's token file), and forms by which a secret is known wherever it
comes from (a token of a hub, a JSON web token, `user:password@` in an address, a bearer header, a
signed address).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, unquote

HIDDEN = "***"
"""What stands where a secret stood."""
SHORTEST = 8
"""Characters of the shortest value that is taken for a secret: shorter ones are words and flags."""
_TELLING = re.compile(
    r"((^|_)((HF|GH)?TOKENS?|SECRETS?|PASSPHRASE|API_?KEY|(ACCESS|SECRET|PRIVATE)_?KEY"
    r"|CREDENTIALS?|BEARER|JWT|PAT|AUTH)|PASSWD|PASSWORD)(_\d+)?$",
    re.IGNORECASE,
)
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s?#]+(?=@)")
_FORMS = (
    (re.compile(r"\b(hf|api_org|gh[a-z])_[A-Za-z0-9]{16,}"), HIDDEN),
    (re.compile(r"\bgithub_pat_\w{16,}"), HIDDEN),
    (re.compile(r"\beyJ[\w-]{8,}(\.[\w-]{8,}){1,2}"), HIDDEN),  # a JSON web token
    (_IN_ADDRESS, HIDDEN),
    (re.compile(r"\b(bearer|basic)(\s+)[\w.~+/=-]{16,}", re.IGNORECASE), rf"\1\2{HIDDEN}"),
    (
        re.compile(
            r"([?&][\w.-]*(token|key|secret|password|signature|credential)=)[^&\s'\"]+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
)


def redact(text: str, *, environ: Mapping[str, str] | None = None) -> str:
    """Return `text` with every token and password replaced by `HIDDEN`.

    Parameters
    ----------
    text : str
        A log line, a traceback, a sentence.
    environ : mapping, optional
        Environment variables; those of this process by default.

    Returns
    -------
    str
        The same text where it holds no secret; redacting twice changes nothing more.
    """
    for value in known_secrets(os.environ if environ is None else environ):
        text = text.replace(value, HIDDEN)
    for form, shown in _FORMS:
        text = form.sub(shown, text)
    return text


def known_secrets(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the secrets that a process with this environment holds, the longest first.

    Parameters
    ----------
    environ : mapping
        Environment variables. `HF_TOKEN`, `AWS_SECRET_ACCESS_KEY` and their like count by name, any
        other by the credentials of an address in it (`PIP_INDEX_URL`), and the hub's token file by
        its place (`HF_TOKEN_PATH`, `HF_HOME`, `XDG_CACHE_HOME`).

    Returns
    -------
    tuple of str
        Each as it stands and as it stands in an address (percent-encoded), of `SHORTEST` characters
        at least.
    """
    plain = {value.strip() for value in _values(environ)}
    written = {form for value in plain for form in (value, quote(value, safe=""), unquote(value))}
    return tuple(sorted((v for v in written if len(v) >= SHORTEST), key=lambda v: (-len(v), v)))


def _values(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        if _TELLING.search(name):
            yield value
        for credentials in _IN_ADDRESS.findall(value):
            yield credentials.rpartition(":")[2]
    with contextlib.suppress(OSError, ValueError):  # none, or not readable
        yield _token_file(environ).read_text(encoding="utf-8")


def _token_file(environ: Mapping[str, str]) -> Path:
    """Return where `hf auth login` keeps its token."""
    if given := environ.get("HF_TOKEN_PATH"):
        return Path(given)
    cache = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "")) / ".cache"
    return Path(environ.get("HF_HOME") or Path(cache) / "huggingface") / "token"
