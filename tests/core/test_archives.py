"""Hostile archives: nothing leaves the folder, nothing floods memory, damage is one sentence."""

from __future__ import annotations

import random
import stat
import struct
import tracemalloc
import warnings
import zipfile

import pytest

from mneme.core.archives import GROWTH, AssetError, archive_files

FLOOD = 64 * 2**20


def packed(folder, members, *, method=zipfile.ZIP_DEFLATED):
    path = folder / "a.whl"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def refused(path, words):
    with pytest.raises(AssetError, match=words) as error:
        archive_files(path, lambda name: True)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_wanted_files_come_sorted_and_folders_are_none(tmp_path):
    path = packed(tmp_path, [("b/y", b"2"), ("b/", b""), ("a/é", b""), ("c", b"3")])
    assert archive_files(path, lambda name: name != "c") == {"a/é": b"", "b/y": b"2"}


UNSAFE = ("../x", "a/../../x", "..", "/x", "//x", "a\\..\\x", "\\\\host\\x", "C:x", "C:/x", "a:b")


@pytest.mark.parametrize("name", UNSAFE)
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, name):
    refused(packed(tmp_path, [("ok", b"1"), (name, b"2")]), "leaves the folder: not unpacked")


def test_a_name_that_is_cut_at_a_nul_is_refused(tmp_path):
    """Readers of other archives' names stop at the NUL and see a harmless one."""
    path = packed(tmp_path, [("data.txtQ../x", b"1")])
    path.write_bytes(path.read_bytes().replace(b"data.txtQ", b"data.txt\0"))
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["data.txt"], "the name has no NUL for who does not look"
    refused(path, "leaves the folder: not unpacked")
    (tmp_path / "a.whl").unlink()
    path = packed(tmp_path, [("data.txtQ", b"1")])
    path.write_bytes(path.read_bytes().replace(b"data.txtQ", b"data.txt\0"))
    refused(path, "leaves the folder: not unpacked")


@pytest.mark.parametrize(
    "kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK]
)
def test_links_and_devices_are_refused(tmp_path, kind):
    info = zipfile.ZipInfo("x")
    info.external_attr = (kind | 0o777) << 16
    refused(packed(tmp_path, [(info, b"../../target")]), "is a link or leaves the folder")


def test_a_name_that_is_there_twice_is_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile's own, when it is made
        path = packed(tmp_path, [("x", b"seen by one reader"), ("x", b"seen by another")])
    refused(path, "'x' is there twice: not unpacked")


def test_only_what_is_wanted_is_judged(tmp_path):
    path = packed(tmp_path, [("../x", b"1"), ("ok", b"2")])
    assert archive_files(path, lambda name: name == "ok") == {"ok": b"2"}


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = packed(tmp_path, [("flood", bytes(FLOOD))])
    assert path.stat().st_size * GROWTH < FLOOD
    assert peak_of(lambda: refused(path, f"would unpack to {FLOOD} bytes, more than 16")) < 2**20


def test_many_small_files_are_a_bomb_too(tmp_path):
    path = packed(tmp_path, [(f"{i}", bytes(2**20)) for i in range(16)])
    assert peak_of(lambda: refused(path, "would unpack to 16777216 bytes")) < 2**20


def test_a_bomb_that_declares_a_small_size_gets_no_more_than_that(tmp_path):
    """`ZipFile.read` would unpack all of it; the check of the hash comes too late."""
    path = packed(tmp_path, [("flood", bytes(FLOOD))])
    lie = path.read_bytes().replace(struct.pack("<L", FLOOD), struct.pack("<L", 100))
    path.write_bytes(lie)
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("flood").file_size == 100
    assert peak_of(lambda: refused(path, "is damaged")) < 2**20


def peak_of(work):
    """Return the most bytes that Python held during `work`, beyond what it held before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_whose_output_has_no_bound_are_refused(tmp_path, method):
    refused(packed(tmp_path, [("x", b"1" * 99)], method=method), "is packed as no wheel is")


def test_a_missing_archive_is_one_sentence(tmp_path):
    refused(tmp_path / "a.whl", "is missing: run snakemake")


def test_whatever_is_damaged_ends_in_one_sentence_or_in_the_files(tmp_path):
    path = packed(tmp_path, [("a/data.txt", b"to be " * 50), ("a/é.txt", b"or not")])
    whole, draw = path.read_bytes(), random.Random(0)
    read, sentences = 0, []
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(draw.choice([1, 1, 2, 4, 8])):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(
            content[: draw.choice([len(content)] * 4 + [draw.randrange(len(content))])]
        )
        try:
            read += len(archive_files(path, lambda name: True)) > 0
        except AssetError as error:
            sentences.append(str(error))
    assert 20 < read < 400
    assert all(sentence.startswith(str(path)) and "\n" not in sentence for sentence in sentences)
