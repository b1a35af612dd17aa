"""Half-written files of killed processes are cleared away, those of living ones are not."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from leftover import NOBODY, left_by_a_dead_process

from mneme.core.artefacts import atomic_path, write_text
from mneme.core.assets import atomic_folder
from mneme.core.checkpoints import remove
from mneme.core.partial import clear_partial, partial_path

DAY_S = 86_400.0
WRITE = "import sys; from mneme.core.artefacts import write_text; write_text(sys.argv[1], 'other')"
FILL = """
import sys
from mneme.core.assets import atomic_folder
with atomic_folder(sys.argv[1]) as folder:
    (folder / "other").write_text("x")
"""


def in_another_process(code, path):
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=120)


def test_two_processes_that_write_one_file_let_each_other_be(tmp_path):
    path = tmp_path / "x"
    with atomic_path(path) as temporary:
        temporary.write_text("first")
        in_another_process(WRITE, path)
        assert path.read_text() == "other"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_two_processes_that_make_one_folder_let_each_other_be(tmp_path):
    path = tmp_path / "x"
    with atomic_folder(path) as temporary:
        (temporary / "first").write_text("x")
        in_another_process(FILL, path)
        assert (path / "other").exists()
    assert (path / "first").exists()
    assert not (path / "other").exists()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("clear", [clear_partial, remove, lambda path: write_text(path, "x")])
def test_only_what_nobody_writes_any_more_is_cleared(tmp_path, clear):
    path = tmp_path / "x"
    mine = partial_path(path).name
    dead = left_by_a_dead_process(path)
    living = dead.with_name(dead.name.replace(str(NOBODY), str(os.getppid())))
    elsewhere = dead.with_name(f".x.elsewhere-{mine.rsplit('.', 3)[1]}.{NOBODY}.part")
    longer = left_by_a_dead_process(tmp_path / "x.json")
    old = dead.with_name(f".x.elsewhere.{NOBODY}.part")
    kept, gone = [living, elsewhere, longer], [dead, old]
    for file in kept + gone:
        file.write_bytes(b"half")
    before = time.time() - DAY_S - 60
    os.utime(old, (before, before))
    clear(path)
    assert {file.name for file in tmp_path.iterdir()} - {"x"} == {file.name for file in kept}


def test_a_folder_left_by_a_process_of_the_same_number_is_in_nobodys_way(tmp_path):
    path = tmp_path / "x"
    partial_path(path).mkdir()
    (partial_path(path) / "half").write_text("x")
    with atomic_folder(path) as folder:
        (folder / "whole").write_text("x")
    assert sorted(file.name for file in path.iterdir()) == [".folder.sha256", "whole"]
