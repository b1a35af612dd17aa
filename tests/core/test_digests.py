"""Digests beside outputs: what changed on the disk is not read as good."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from mneme.core.artefacts import ArtefactError
from mneme.core.digests import (
    forget_digests,
    sha256_of,
    sidecar,
    verified_digests,
    write_digests,
    write_folder_digests,
)

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""Published SHA-256 of the three letters abc (FIPS 180-2)."""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a name.npz"
    path.write_bytes(b"abc")
    write_digests([path])
    return path


def test_the_digest_is_sha256(file):
    assert sha256_of(file) == ABC
    assert verified_digests([file, str(file)]) == {str(file): ABC}


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_users_can_check_a_file_with_coreutils(file):
    def status():
        command = ["sha256sum", "--status", "-c", sidecar(file).name]
        return subprocess.run(command, cwd=file.parent, check=False).returncode

    assert status() == 0
    file.write_bytes(b"abd")
    assert status() == 1


@pytest.mark.parametrize("bit", range(24))
def test_any_flipped_bit_is_found(file, bit):
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    sentence = "a name.npz is damaged .*: delete it and run snakemake again"
    with pytest.raises(ArtefactError, match=sentence):
        verified_digests([file])


def test_a_damaged_digest_is_told_too(file):
    sidecar(file).write_bytes(b"\xff")
    with pytest.raises(ArtefactError, match="is damaged"):
        verified_digests([file])


def test_a_file_without_a_digest_is_read_as_it_is(file):
    forget_digests([file, file.with_name("never written")])
    file.write_bytes(b"other")
    assert verified_digests([file]) == {str(file): sha256_of(file)}


@pytest.fixture
def model(tmp_path):
    """Return a folder that was made as a whole, with one below it."""
    folder = tmp_path / "model"
    (folder / "more").mkdir(parents=True)
    for name in ("weights", "tokenizer.json", "more/config.json"):
        (folder / name).write_text(name)
    write_folder_digests(folder)
    return folder


def test_a_whole_folder_is_read_as_it_was_made(model):
    weights = str(model / "weights")
    assert verified_digests([weights]) == {weights: sha256_of(weights)}


@pytest.mark.parametrize(
    ("read", "damaged"), [("weights", "tokenizer.json"), ("more/config.json", "more/config.json")]
)
def test_a_change_in_a_whole_folder_is_found_by_who_reads_any_of_its_files(model, read, damaged):
    (model / damaged).write_text("other")
    remedy = f"delete {(model / damaged).parent} and run snakemake again"
    with pytest.raises(ArtefactError, match=rf"{damaged} is damaged .*: {remedy}"):
        verified_digests([model / read])


def test_a_file_that_a_whole_folder_lacks_is_named(model):
    (model / "tokenizer.json").unlink()
    with pytest.raises(ArtefactError, match=rf"tokenizer.json is missing: delete {model} and run"):
        verified_digests([model / "weights"])


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_users_can_check_a_folder_with_coreutils(model):
    command = ["sha256sum", "--status", "-c", ".folder.sha256"]
    assert subprocess.run(command, cwd=model, check=False).returncode == 0
