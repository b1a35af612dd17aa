"""Plain mappings (YAML) -> frozen dataclasses: nothing unknown, nothing missing, nothing coerced.

Every dataclass field carries a docstring on the line below it (unit, range); `describe` reads
those, so the help of `mneme config` can never drift from the code.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import hashlib
import inspect
import itertools
import json
import math
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
_LARGEST = 2**63 - 1
"""Arrays, JSON readers and floats hold no larger whole number."""
_LONGEST = 300
"""Characters of a value that a sentence shows."""


class ConfigError(ValueError):
    """A user's mistake in the configuration: names the key, the rule and the value."""


def require(condition: bool, key: str, rule: str, value: object) -> None:
    """Raise `ConfigError` naming `key`, `rule` and `value` unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{key} must be {rule}, got {_shown(value)}")


def build(cls: type[T], mapping: object, *, where: str) -> T:
    """Build the frozen dataclass `cls` from a plain mapping.

    Parameters
    ----------
    cls : type
        Dataclass whose fields are scalars, `Literal`, `X | None`, `tuple[X, ...]`, fixed tuples,
        `dict[str, X]` or further dataclasses.
    mapping : object
        What YAML gave for this block.
    where : str
        Dotted address of the block, used in messages (`"routing.protocol"`).

    Returns
    -------
    T
        The checked, immutable settings.

    Raises
    ------
    ConfigError
        Unknown key (with the nearest known one), missing key, wrong type, or a broken range rule.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where} must be a block of keys, got {_shown(mapping)}")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in mapping:
        if key not in names:
            raise ConfigError(_unknown(where, key, names))
    missing = [name for name in names if name not in mapping]
    if missing:
        raise ConfigError(f"{where}.{missing[0]} is missing: add it to the configuration")
    values = {name: _convert(hints[name], mapping[name], f"{where}.{name}") for name in names}
    try:
        return cls(**values)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(where) else f"{where}.{text}") from None


def plain(value: Any) -> Any:
    """Turn settings back into JSON-ready builtins (dataclass -> dict, tuple -> list)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def fingerprint(value: Any) -> str:
    """Hash settings: 16 hex digits of SHA-256 over canonical JSON, independent of key order."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyDoc:
    """One line of `mneme config`."""

    key: str
    """Dotted address; `<name>` stands for a free key."""
    type: str
    """Type as written in the code."""
    doc: str
    """The field's docstring: meaning, unit, range."""


def describe(cls: type, *, where: str = "") -> list[KeyDoc]:
    """List every key below the dataclass `cls` with type and docstring, in source order."""
    docs, hints = _field_docs(cls), typing.get_type_hints(cls)
    rows: list[KeyDoc] = []
    for field in dataclasses.fields(cls):
        key = f"{where}.{field.name}" if where else field.name
        hint = hints[field.name]
        rows.append(KeyDoc(key=key, type=_type_name(hint), doc=docs.get(field.name, "")))
        for inner, address in _nested(hint, key):
            rows.extend(describe(inner, where=address))
    return rows


def _nested(hint: Any, key: str) -> list[tuple[type, str]]:
    if dataclasses.is_dataclass(hint):
        return [(typing.cast(type, hint), key)]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is dict:
        return _nested(args[1], f"{key}.<name>")
    if origin is tuple and args:
        return _nested(args[0], f"{key}[]")
    if origin in (typing.Union, types.UnionType):
        return [pair for arg in args for pair in _nested(arg, key)]
    return []


def _unknown(where: str, key: object, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, names, n=1) if isinstance(key, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{_below(where, key)} is not a known key{hint} Expected: {', '.join(names)}"


def _below(where: str, key: object) -> str:
    """Return the address of a key, in quotes where it would not read as one line."""
    plain_word = isinstance(key, str) and key.isprintable() and 0 < len(key) <= _LONGEST
    return f"{where}.{key if plain_word else _shown(key)}"


def _shown(value: object) -> str:
    """Write a value into a sentence: one line, however long the value is."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write out integers of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Check `value` against the type `hint` and rebuild containers immutably."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where=where)
    if origin is typing.Literal:
        if value not in args or isinstance(value, bool) != any(isinstance(a, bool) for a in args):
            choices = ", ".join(map(repr, args))
            raise ConfigError(f"{where} must be one of {choices}, got {_shown(value)}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, where)
    if origin is tuple:
        return _convert_tuple(args, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a block of named entries, got {_shown(value)}")
        for key in value:
            rule = "named by text (in quotes, where YAML reads it otherwise)"
            require(isinstance(key, str), where, rule, key)
        return {k: _convert(args[1], v, _below(where, k)) for k, v in value.items()}
    return _convert_scalar(hint, value, where)


def _convert_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    errors = []
    for arg in args:
        if arg is type(None):
            continue
        try:
            return _convert(arg, value, where)
        except ConfigError as error:
            errors.append(str(error))
    raise ConfigError(" or ".join(errors))


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} must be a list, got {_shown(value)}")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(args) != len(value):
        raise ConfigError(f"{where} must be a list of {len(args)} entries, got {_shown(value)}")
    pairs = zip(args, value, strict=True)
    return tuple(_convert(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(pairs))


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if type(value) is int and hint in (int, float):
        require(abs(value) <= _LARGEST, where, "within 64 bits", value)
        return hint(value)
    if type(value) is not hint:
        extra = " (YAML reads 1e-4 as text: write 1.0e-4)" if _looks_numeric(value, hint) else ""
        raise ConfigError(f"{where} must be {hint.__name__}, got {_shown(value)}{extra}")
    if hint is float:
        require(math.isfinite(value), where, "finite", value)
    return value


def _looks_numeric(value: Any, hint: Any) -> bool:
    if hint not in (int, float) or not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def _type_name(hint: Any) -> str:
    name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return name.replace("typing.", "").replace("mneme.", "").replace("NoneType", "None")


def _field_docs(cls: type) -> dict[str, str]:
    """Read the docstring under each field from the class's source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    docs = {}
    for here, below in itertools.pairwise(body):
        if not (isinstance(here, ast.AnnAssign) and isinstance(here.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            docs[here.target.id] = inspect.cleandoc(str(below.value.value))
    return docs
