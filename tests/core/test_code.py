"""The code hash changes exactly when what a script uses changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mneme.core import code
from mneme.core.code import code_of, packages_of
from mneme.core.partial import partial_path


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Return a writer of files below a small library and its scripts."""

    def write(path: str, text: str) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    write("mneme/__init__.py", '"""Root."""\n')
    write("mneme/core/__init__.py", '"""Core."""\n')
    write("mneme/core/one.py", "import numpy as np\n\n\ndef one(x):\n    return np.add(x, 1)\n")
    write(
        "mneme/core/two.py", "from mneme.core.one import one\n\n\ndef two(x):\n    return one(x)\n"
    )
    write("mneme/core/alone.py", "VALUE = 1\n")
    write("user.py", "from mneme.core.two import two\n\nprint(two(1))\n")
    write("other.py", "from mneme.core import alone\n\nprint(alone.VALUE)\n")
    monkeypatch.setattr(code, "LIBRARY", tmp_path / "mneme")
    write.root = tmp_path
    return write


def hashes(house):
    return [code_of(house.root / "user.py"), code_of(house.root / "other.py")]


def changed(house, path, text):
    before = hashes(house)
    house(path, text)
    return [a != b for a, b in zip(before, hashes(house), strict=True)]


def test_an_edit_changes_only_the_scripts_that_use_it(house):
    edit = "import numpy as np\n\n\ndef one(x):\n    return np.add(x, 2)\n"
    assert changed(house, "mneme/core/one.py", edit) == [True, False]
    assert changed(house, "mneme/core/alone.py", "VALUE = 2\n") == [False, True]
    assert changed(house, "user.py", "from mneme.core.two import two\n\nprint(two(2))\n") == [
        True,
        False,
    ]


def test_touch_comment_format_and_docstring_change_nothing(house):
    before = hashes(house)
    edits = [
        "import numpy as np  # comment\n\ndef one( x ):\n    # why\n    return np.add(x,1)\n",
        '"""Doc."""\nimport numpy as np\ndef one(x):\n    """Add."""\n    return np.add(x, 1)\n',
        "import numpy as np\ndef one(x):\n    return (\n        np.add(\n x, 1,\n        ))\n",
    ]
    for edit in edits:
        house("mneme/core/one.py", edit)
        assert hashes(house) == before
    os.utime(house.root / "mneme/core/one.py", (1, 1))
    assert hashes(house) == before


def test_a_revert_gives_the_old_hash_back(house):
    before = hashes(house)
    assert changed(house, "mneme/core/alone.py", "VALUE = 7\n") == [False, True]
    house("mneme/core/alone.py", "VALUE = 1\n")
    assert hashes(house) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("VALUE = 1\n", "VALUE = 1.0\n"),
        ("VALUE = 1\n", "VALUE = True\n"),
        ("VALUE = 'a'\n", "VALUE = b'a'\n"),
        ("VALUE = 1\n", "VALUE = None\n"),
        ("VALUE = [1, 2]\n", "VALUE = (1, 2)\n"),
        ("VALUE = a - b - c\n", "VALUE = a - (b - c)\n"),
        ("def f(a, b=1): pass\n", "def f(a, *, b=1): pass\n"),
        ("VALUE = ['a', 'b']\n", "VALUE = ['a', 'c']\n"),
        ("VALUE = {**a}\n", "VALUE = {None: a}\n"),
    ],
)
def test_small_differences_of_meaning_are_seen(house, old, new):
    house("mneme/core/alone.py", old)
    assert changed(house, "mneme/core/alone.py", new) == [False, True]


@pytest.mark.parametrize(
    "statement",
    [
        "import mneme.core.alone",
        "import mneme.core.alone as a",
        "from mneme.core import alone",
        "from mneme.core.alone import VALUE",
        "from mneme.core.alone import *",
        "from . import alone",
        "from .alone import VALUE",
        "from .. import core\nfrom ..core import alone",
        "def late():\n    from mneme.core import alone\n    return alone",
        "class C:\n    def m(self):\n        import mneme.core.alone",
        "try:\n    from mneme.core import alone\nexcept ImportError:\n    alone = None",
    ],
)
def test_every_form_of_import_is_followed_transitively(house, statement):
    house("mneme/core/one.py", statement + "\n")
    assert changed(house, "mneme/core/alone.py", "VALUE = 2\n") == [True, True]


def test_imports_for_type_checking_are_not_followed(house):
    lines = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mneme.core import alone\n"
    )
    house("mneme/core/one.py", lines + "    import torch\n")
    assert changed(house, "mneme/core/alone.py", "VALUE = 2\n") == [False, True]
    assert packages_of(house.root / "user.py") == []


def test_package_inits_on_the_way_count(house):
    assert changed(house, "mneme/core/__init__.py", "X = 1\n") == [True, True]


def test_a_name_of_a_module_that_is_itself_imported_counts_once_it_exists(house):
    house("user.py", "from mneme.core.later import x\n")
    assert changed(house, "mneme/core/later.py", "x = 1\n") == [True, False]


def test_circular_imports_end(house):
    house("mneme/core/one.py", "from mneme.core import two\n")
    assert changed(house, "mneme/core/one.py", "from mneme.core import two\nX = 1\n") == [
        True,
        False,
    ]


def test_packages_are_distributions_reached_in_the_closure(house):
    house("mneme/core/alone.py", "def f():\n    import yaml, json, os.path, not_installed_xyz\n")
    assert packages_of(house.root / "user.py") == ["numpy"]
    assert packages_of(house.root / "other.py") == ["PyYAML"]


def test_another_version_of_a_used_package_changes_the_hash(house, monkeypatch):
    before = hashes(house)
    monkeypatch.setattr(code, "_version", lambda name: "999" if name == "numpy" else "1")
    after = hashes(house)
    assert [a != b for a, b in zip(before, after, strict=True)] == [True, False]


def test_a_broken_module_is_named(house):
    house("mneme/core/one.py", "def broken(:\n")
    with pytest.raises(SyntaxError) as error:
        code_of(house.root / "user.py")
    assert str(error.value.filename).endswith("one.py")


def test_hashing_imports_no_torch():
    root = Path(__file__).parents[2]
    scripts = sorted(str(path) for path in (root / "workflow/scripts").glob("*.py"))
    program = (
        "import sys; from mneme.core.code import code_of\n"
        f"for script in {scripts!r}: assert len(code_of(script)) == 16\n"
        "assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# --- what was parsed before


def in_a_process(script, cache, **further):
    """Return the hash that a new process finds, and what it then keeps."""
    program = (
        "import ast, sys; from mneme.core import code; parse = ast.parse; parsed = []\n"
        "ast.parse = lambda *a, **k: (parsed.append(1), parse(*a, **k))[1]\n"
        "print(code.code_of(sys.argv[1]), len(parsed))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, script],
        env={**os.environ, "XDG_CACHE_HOME": str(cache), **further},
        capture_output=True,
        text=True,
        check=True,
    )
    digest, parsed = run.stdout.split()
    return digest, int(parsed), sorted(cache.glob("mneme/*"))


def test_a_file_is_parsed_once_in_its_life(tmp_path):
    script, cache = tmp_path / "a.py", tmp_path / "cache"
    script.write_text("from mneme.core.seeds import derive\n\nprint(derive(1))\n")
    expected = code_of(script)
    digest, parsed, (kept,) = in_a_process(script, cache)
    assert digest == expected
    assert parsed > 2
    assert in_a_process(script, cache) == (expected, 0, [kept])
    script.write_text("from mneme.core.seeds import derive\n\nprint(derive(2))\n")
    digest, parsed, _ = in_a_process(script, cache)
    assert (digest, parsed) == (code_of(script), 1)
    assert digest != expected


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1', "\0", None])
def test_a_damaged_memory_is_not_believed(tmp_path, content):
    script, cache = tmp_path / "a.py", tmp_path / "cache"
    script.write_text("import numpy\n")
    expected, _, (kept,) = in_a_process(script, cache)
    if content is None:  # the right keys with the wrong values
        keys = json.loads(kept.read_text())
        content = json.dumps({key: ["0", "numpy", [1]] for key in keys})
    kept.write_text(content)
    digest, parsed, _ = in_a_process(script, cache)
    assert (digest, parsed) == (expected, 1)
    assert in_a_process(script, cache)[1] == 0, "mended"


def test_what_a_killed_process_half_wrote_is_cleared(tmp_path):
    script, cache = tmp_path / "a.py", tmp_path / "cache"
    script.write_text("import numpy\n")
    _, _, (kept,) = in_a_process(script, cache)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = partial_path(kept).name.replace(str(os.getpid()), str(ended.pid))
    (kept.parent / here).write_text("{")
    script.write_text("import scipy\n")
    assert in_a_process(script, cache)[2] == [kept]


def test_where_nothing_can_be_kept_hashes_are_the_same(tmp_path):
    script, cache = tmp_path / "a.py", tmp_path / "file"
    script.write_text("import numpy\n")
    cache.write_text("no folder")
    assert in_a_process(script, cache) == (code_of(script), 1, [])


def test_what_nobody_asks_for_is_dropped(tmp_path):
    script, cache = tmp_path / "a.py", tmp_path / "cache"
    script.write_text("import numpy\n")
    _, _, (kept,) = in_a_process(script, cache)
    (entry,) = json.loads(kept.read_text()).items()
    old = {f"{i:064x}": ["0", [], []] for i in range(code.MOST_KEPT)}
    kept.write_text(json.dumps({**old, entry[0]: entry[1]}))
    script.write_text("import scipy\n")
    in_a_process(script, cache)
    assert len(json.loads(kept.read_text())) == 1
