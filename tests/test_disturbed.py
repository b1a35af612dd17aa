"""The checks of the fault campaign find what they are to find."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from disturbed import Run, Whole, different, flip, leftovers
from workplace import RESULTS

from mneme.core.artefacts import write_array, write_arrays, write_json, write_tensors
from mneme.core.checkpoints import Training, save
from mneme.core.digests import write_digests

HEADLINE = {"seconds": 1.0, "provenance": {"inputs": {"a": "1"}}, "runs": {"ours": {"value": 2}}}


@pytest.fixture
def finished(tmp_path):
    """Return a folder with a whole file of every kind."""
    results = tmp_path / RESULTS
    write_json(results / "zeros.json", HEADLINE)
    write_arrays(results / "room" / "a.npz", {"x": np.arange(100)})
    write_array(tmp_path / "resources" / "b.npy", np.arange(100))
    write_tensors(results / "room" / "c.safetensors", {"x": torch.arange(100)})
    save(results / "room" / "checkpoint", Training(tensors={}), step=1, fingerprint="")
    texts = {
        "d.jsonl": '{"a": 1}\n{"a": 2}\n',
        "e.svg": "<svg><g/></svg>",
        "f.csv": "a,b\n1,2\n",
        "g.html": "<html><p>hello</p></html>\n",
    }
    for name, text in texts.items():
        (results / name).write_text(text)
    (results / "h.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100) + b"IEND\xaeB`\x82")
    return tmp_path


FILES = ("zeros.json", "room/a.npz", "room/c.safetensors", "room/checkpoint", "d.jsonl")
FILES += ("e.svg", "f.csv", "g.html", "h.png", "../../resources/b.npy")


class Sleeper:
    """Starts a process that only waits, in place of a clone's Snakemake."""

    def __init__(self, folder):
        self.folder = folder

    def start(self, *, environment, **options):
        command = [sys.executable, "-c", "print('up', flush=True)\nimport time\ntime.sleep(60)"]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)


def test_a_run_hears_interrupts_also_when_what_started_the_tests_ignores_them(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = Run(Sleeper(tmp_path))
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        run.until(lambda: "up" in run.printed.read_text())
        run.send_to_group(signal.SIGINT)
        assert run.process.wait(30) != 0
    finally:
        run.end()


def test_whole_files_are_found_whole(finished):
    assert Whole(finished).broken() == {}


@pytest.mark.parametrize("name", FILES)
def test_a_half_written_file_is_found_also_after_an_earlier_look(finished, name):
    whole = Whole(finished)
    whole.broken()
    path = finished / RESULTS / name
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 4])
    assert [finished / found for found in whole.broken()] == [path.resolve()]


def test_half_written_files_under_temporary_names_and_logs_are_let_be(finished):
    (finished / RESULTS / ".zeros.json.77.part").write_text("{")
    (finished / RESULTS / "logs").mkdir()
    (finished / RESULTS / "logs" / "zeros.json").write_text("{")
    assert Whole(finished).broken() == {}


def test_a_file_that_is_not_what_its_digest_says_is_found(finished):
    path = finished / RESULTS / "zeros.json"
    write_digests([path])
    assert Whole(finished).broken() == {}
    write_json(path, {})
    assert list(Whole(finished).broken()) == [f"{RESULTS}/zeros.json"]


@pytest.mark.parametrize("keep_time", [True, False])
def test_a_flip_changes_one_bit_and_the_time_if_wanted(finished, keep_time):
    path = finished / RESULTS / "room" / "a.npz"
    os.utime(path, ns=(1, 1))
    before = np.unpackbits(np.frombuffer(path.read_bytes(), np.uint8))
    flip(path, keep_time=keep_time)
    after = np.unpackbits(np.frombuffer(path.read_bytes(), np.uint8))
    assert (before != after).sum() == 1
    assert (path.stat().st_mtime_ns == 1) == keep_time


@pytest.mark.parametrize("name", ["checkpoint", "a.npz.parts/0.npz", ".b.json.7.part", ".fetch-x"])
def test_what_a_kill_has_left_is_found(finished, name):
    (finished / RESULTS / "room" / "checkpoint").unlink()
    assert leftovers(finished) == []
    path = finished / RESULTS / "room" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    assert len(leftovers(finished)) == 1


def test_results_that_differ_in_cost_alone_are_the_same(finished, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_json(other / RESULTS / "zeros.json", {**HEADLINE, "seconds": 3.0})
    for name in ("room/a.npz", "room/c.safetensors"):
        path = other / RESULTS / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((finished / RESULTS / name).read_bytes())
    assert different(finished, other, ["zeros"]) == []
    write_json(other / RESULTS / "zeros.json", {**HEADLINE, "runs": {}})
    flip(other / RESULTS / "room" / "a.npz", keep_time=True)
    (other / RESULTS / "room" / "c.safetensors").unlink()
    assert different(finished, other, ["zeros"]) == [
        "zeros.json",
        "room/c.safetensors",
        "room/a.npz",
    ]
    assert json.loads((finished / RESULTS / "zeros.json").read_text()) == HEADLINE
