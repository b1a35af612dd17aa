"""JSON schemas of the headline files and of the summary, and what checks a file against them.

One schema holds the frame of every headline file; `contents.json` says what each phase has to hold
in it, run by run, and becomes a schema of that phase here. Keys of the table are patterns of whole
names: a run must match each of them, and every run that matches holds a row of each metric and each
further key.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from mneme.core.artefacts import read_json

Json = Mapping[str, Any]
_FOLDER = Path(__file__).parent / "schemas"
_SAYS = "$comment"


def validate(content: Any, schema: Literal["headline", "frame", "summary"], *, name: str) -> None:
    """Check `content` against a JSON schema.

    Parameters
    ----------
    content : object
        Contents of a file.
    schema : {"headline", "frame", "summary"}
        `headline`: the frame, and what the file's phase has to hold; `frame`: the frame only, for
        files that are cut down.
    name : str
        Name of the file, for messages.

    Raises
    ------
    ValueError
        Names the file, the key and what is wrong.
    """
    kind: Literal["headline", "summary"] = "summary" if schema == "summary" else "headline"
    error = best_match(_validator(kind).iter_errors(content))
    if error is None and schema == "headline":
        error = best_match(_contents(content["phase"]).iter_errors(content))
    if error is not None:
        what = error.schema.get(_SAYS, error.message) if error.parent is None else error.message
        raise ValueError(f"{name} breaks the {schema} schema at {error.json_path}: {what}")


def phase_schema(phase: str) -> dict[str, Any]:
    """Return the JSON schema of what a phase has to hold beside the frame.

    Parameters
    ----------
    phase : str
        Name of a headline file; one without an entry in `contents.json` has nothing to hold.

    Returns
    -------
    dict
        JSON schema, draft 2020-12.
    """
    runs = read_json(_FOLDER / "contents.json").get(phase, {})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"What results/{phase}.json holds in the frame of headline.schema.json",
        "type": "object",
        "properties": {
            "runs": {
                "allOf": [{"type": "object"}, *map(_present, runs)],
                "patternProperties": {f"^({run})$": _block(held) for run, held in runs.items()},
            }
        },
    }


def _present(pattern: str) -> dict[str, Any]:
    """Return the schema of an object with a key that matches."""
    absent = {"propertyNames": {"not": {"pattern": f"^({pattern})$"}}}
    return {_SAYS: f"no run {pattern}", "not": absent}


def _block(held: Json) -> dict[str, Any]:
    """Return the schema of a run with certain metrics and keys."""
    rows = [
        {_SAYS: f"no row of {metric}", "contains": {"properties": {"metric": _whole(metric)}}}
        for metric in held.get("metrics", ())
    ]
    return {
        "required": ["rows", *held.get("keys", ())],
        "properties": {"rows": {"allOf": [{"type": "array"}, *rows]}},
    }


def _whole(pattern: str) -> dict[str, str]:
    return {"pattern": f"^({pattern})$"}


@functools.cache
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(read_json(_FOLDER / f"{schema}.schema.json"))


@functools.cache
def _contents(phase: str) -> Draft202012Validator:
    return Draft202012Validator(phase_schema(phase))
