"""Files appear complete or not at all; NaN, damage and full disks end in one clear error."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from leftover import left_by_a_dead_process

from mneme.core.artefacts import (
    ArtefactError,
    atomic_path,
    read_array,
    read_arrays,
    read_json,
    read_tensors,
    read_text,
    write_array,
    write_arrays,
    write_json,
    write_tensors,
    write_text,
)
from mneme.core.partial import partial_path

ARRAYS = {"ids": np.arange(6, dtype=np.int32).reshape(2, 3), "x": np.array([0.5, -1.0])}
TENSORS = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor([1, 2])}
WRITERS = [
    pytest.param(lambda path: write_text(path, "text"), id="text"),
    pytest.param(lambda path: write_json(path, {"x": 1}), id="json"),
    pytest.param(lambda path: write_array(path, ARRAYS["ids"]), id="array"),
    pytest.param(lambda path: write_arrays(path, ARRAYS), id="arrays"),
    pytest.param(lambda path: write_tensors(path, TENSORS), id="tensors"),
]
READERS = [
    pytest.param(read_json, id="json"),
    pytest.param(read_array, id="array"),
    pytest.param(read_arrays, id="arrays"),
    pytest.param(read_tensors, id="tensors"),
]


def test_json_is_written_strictly_and_in_one_form(tmp_path):
    path = tmp_path / "deep" / "x.json"
    write_json(path, {"b": 1, "a": [None, 0.5, "é"]})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"a": [None, 0.5, "é"], "b": 1}
    assert text.index('"a"') < text.index('"b"')
    write_json(path, {"a": [None, 0.5, "é"], "b": 1})
    assert path.read_text(encoding="utf-8") == text


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@examples(max_examples=30, deadline=None)
@given(json_values)
def test_json_survives_a_round_trip(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "x.json"
    write_json(path, value)
    assert read_json(path) == value


def test_arrays_and_tensors_survive_a_round_trip(tmp_path):
    write_arrays(tmp_path / "x.npz", ARRAYS)
    arrays = read_arrays(tmp_path / "x.npz")
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    write_tensors(tmp_path / "x.safetensors", {**TENSORS, "t": TENSORS["w"].T})
    tensors = read_tensors(tmp_path / "x.safetensors")
    assert torch.equal(tensors["t"], TENSORS["w"].T)
    assert tensors["n"].dtype == torch.int64


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_is_refused_and_leaves_nothing_behind(tmp_path, bad):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"deep": [{"x": bad}]})
    assert list(tmp_path.iterdir()) == []


def test_object_arrays_are_refused_because_they_would_be_pickled(tmp_path):
    with pytest.raises(ValueError, match=r"[Oo]bject arrays"):
        write_arrays(tmp_path / "x.npz", {"x": np.array([{}, []], dtype=object)})
    assert list(tmp_path.iterdir()) == []


def test_a_failure_midway_keeps_the_old_file_and_removes_the_part(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def half_write():
        with atomic_path(path) as temporary:
            temporary.write_text("ne")
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", WRITERS)
def test_a_write_replaces_the_old_file_and_leaves_no_part(tmp_path, write):
    path = tmp_path / "x"
    path.write_text("old")
    write(path)
    assert path.read_bytes() != b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", WRITERS)
def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path, write):
    path = tmp_path / "x[1]"
    left, other = left_by_a_dead_process(path), left_by_a_dead_process(tmp_path / "y")
    for half in (left, other):
        half.write_bytes(b"half")
    write(path)
    assert sorted(tmp_path.iterdir()) == sorted([path, other])


@pytest.mark.parametrize("write", WRITERS[:-1])
def test_a_full_disk_is_one_sentence_and_leaves_nothing_behind(tmp_path, write):
    path = tmp_path / "x"
    partial_path(path).symlink_to("/dev/full")  # every write to this device fails with ENOSPC
    with pytest.raises(ArtefactError, match=r"no space left on the disk while writing .*/x: free"):
        write(path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 64 KiB, where that is allowed."""
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("write", WRITERS)
def test_a_disk_that_cannot_be_written_is_one_sentence(small_disk, write):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    sentence = r"/x cannot be written \(Read-only file system\): make its folder writable and run"
    with pytest.raises(ArtefactError, match=sentence):
        write(small_disk / "x")


def test_tensors_on_a_full_disk_are_the_same_sentence(small_disk):
    with pytest.raises(ArtefactError, match=r"no space left on the disk while writing .*/x: free"):
        write_tensors(small_disk / "x", {"w": torch.zeros(2**15)})
    assert list(small_disk.iterdir()) == []


def test_other_errors_of_the_system_pass_through(tmp_path):
    def fail():
        with atomic_path(tmp_path / "x"):
            raise OSError(errno.EACCES, "denied")

    with pytest.raises(PermissionError):
        fail()


@pytest.mark.parametrize("read", READERS)
def test_a_missing_file_says_what_to_do(tmp_path, read):
    with pytest.raises(ArtefactError, match=r"gone is missing: run snakemake again"):
        read(tmp_path / "gone")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("content", [b"", b"\x00\x01garbage", b"{", b"PK\x03\x04 half a zip"])
def test_a_damaged_file_says_so_in_one_line(tmp_path, read, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match=r"x is damaged \(.*\): delete it") as error:
        read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_damaged(tmp_path, share):
    big = {"x": np.arange(4096.0)}
    write_arrays(tmp_path / "a", big)
    write_tensors(tmp_path / "t", {"x": torch.arange(4096.0)})
    for name, read in (("a", read_arrays), ("t", read_tensors)):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: int(share * len(content))])
        with pytest.raises(ArtefactError, match="is damaged"):
            read(tmp_path / name)


def test_a_flipped_byte_of_an_array_is_found(tmp_path):
    write_arrays(tmp_path / "a", {"x": np.arange(4096.0)})
    content = bytearray((tmp_path / "a").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ArtefactError, match="is damaged"):
        read_arrays(tmp_path / "a")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_reading_refuses_what_is_not_strict_json(tmp_path, constant):
    (tmp_path / "x.json").write_text(f'{{"x": {constant}}}')
    with pytest.raises(ArtefactError, match=f"{constant} is not strict JSON"):
        read_json(tmp_path / "x.json")


def test_text_comes_back_and_what_is_none_is_named(tmp_path):
    write_text(tmp_path / "a.txt", "żółw\n")
    assert read_text(tmp_path / "a.txt") == "żółw\n"
    with pytest.raises(ArtefactError, match=r"b\.txt is missing: run snakemake again"):
        read_text(tmp_path / "b.txt")
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(ArtefactError, match=r"c\.txt is damaged"):
        read_text(tmp_path / "c.txt")


def test_tensors_can_be_read_by_whom_the_mask_allows(tmp_path):
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": torch.zeros(1)})
    plain = tmp_path / "plain"
    plain.write_text("")
    assert path.stat().st_mode == plain.stat().st_mode
