import json

import numpy as np
import pytest

from mneme.lattice import cache
from mneme.lattice.cache import CacheError, read_cached, write_cached

KEY = "ab" * 32
VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture(name="kept")
def _kept(tmp_path):
    write_cached(tmp_path / "deep", KEY, VECTORS, facts={"name": "tiny", "shape": "not this one"})
    return tmp_path / "deep"


def test_what_was_written_comes_back_bit_for_bit(kept):
    found = read_cached(kept, KEY)
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, VECTORS)
    assert sorted(path.name for path in kept.iterdir()) == [f"{KEY}.json", f"{KEY}.npy"]
    record = json.loads((kept / f"{KEY}.json").read_text())
    assert (record["name"], record["shape"]) == ("tiny", [4, 3])


def test_there_is_nothing_under_another_key_or_in_no_folder(kept, tmp_path):
    assert read_cached(kept, "cd" * 32) is None
    assert read_cached(tmp_path / "absent", KEY) is None


@pytest.mark.parametrize("suffix", ["json", "npy"])
def test_half_of_it_is_nothing_and_is_made_again(kept, suffix):
    (kept / f"{KEY}.{suffix}").unlink()
    assert read_cached(kept, KEY) is None
    write_cached(kept, KEY, VECTORS + 1, facts={})
    np.testing.assert_array_equal(read_cached(kept, KEY), VECTORS + 1)


def test_a_writer_that_is_killed_leaves_nothing_to_read(kept, monkeypatch):
    def killed(*args):
        raise RuntimeError("killed")

    monkeypatch.setattr(cache, "write_array", killed)
    with pytest.raises(RuntimeError, match="killed"):
        write_cached(kept, KEY, VECTORS, facts={})
    assert read_cached(kept, KEY) is None


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def save(path, array):
    with open(path, "wb") as handle:
        np.save(handle, array)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not numbers"),
        lambda path: save(path, VECTORS.reshape(3, 4)),
        lambda path: save(path, VECTORS.astype(np.float64)),
        lambda path: save(path, np.array([{"a": 1}])),
    ],
    ids=["bit", "cut", "empty", "text", "shape", "dtype", "pickle"],
)
def test_a_damaged_array_is_one_sentence(kept, damage):
    damage(kept / f"{KEY}.npy")
    with pytest.raises(CacheError, match=rf"{KEY}\.npy is damaged \(.*\): delete it and run"):
        read_cached(kept, KEY)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is damaged"),
        ("[]", "does not describe"),
        ("{}", "does not describe"),
        (json.dumps({"key": "cd" * 32, "shape": [4, 3], "sha256": ""}), "does not describe"),
        (json.dumps({"key": KEY, "shape": [4, 3], "sha256": None}), "does not describe"),
    ],
)
def test_a_damaged_description_is_one_sentence(kept, text, sentence):
    (kept / f"{KEY}.json").write_text(text)
    with pytest.raises(CacheError, match=rf"{KEY}\.json {sentence}.*: delete it and run"):
        read_cached(kept, KEY)
