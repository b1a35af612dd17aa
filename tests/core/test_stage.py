"""The frame of a script, run without Snakemake."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from namelist import Namelist

from mneme.core.artefacts import read_json
from mneme.core.digests import sha256_of, sidecar
from mneme.core.stage import read_record

ROOT = Path(__file__).parents[2]
SCRIPT = """
import dataclasses
from mneme.core.stage import stage
from mneme.core.headline import run_block
from mneme.stats.rows import Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    x: float


with stage(snakemake) as job:
    config = job.settings(Config, where="demo")
    {body}
    rows = [Row(metric="m", value=config.x, n=2, unit="s")]
    job.headline(job.output[0], phase="demo", runs={{"ours": run_block(rows)}}, published={{}})
"""


@pytest.fixture
def run(tmp_path):
    """Run a script of one body under a stand-in for Snakemake; returns its folder."""

    def call(body="pass", given="[1]", **params):
        script = tmp_path / "demo.py"
        script.write_text(SCRIPT.format(body=body))
        base = {
            "config": {"x": 0.5},
            "code": "0" * 16,
            "lineage": "1" * 16,
            "packages": ["numpy"],
            "device": "cpu",
        }
        (tmp_path / "given.json").write_text(given)
        snakemake = SimpleNamespace(
            input=Namelist([str(tmp_path / "given.json")]),
            output=Namelist([str(tmp_path / "results" / "demo.json")]),
            params=SimpleNamespace(**{**base, **params}),
            wildcards=SimpleNamespace(),
            threads=1,
            log=Namelist([str(tmp_path / "logs" / "demo.log")]),
        )
        runpy.run_path(str(script), init_globals={"snakemake": snakemake})
        return tmp_path

    return call


def test_a_script_writes_its_headline_and_its_log(run):
    folder = run()
    headline = read_json(folder / "results" / "demo.json")
    assert headline["phase"] == "demo"
    assert headline["code"] == "1" * 16, "of all stages upstream too"
    assert headline["config"] == {"x": 0.5}
    assert headline["runs"]["ours"]["rows"][0]["value"] == 0.5
    provenance = headline["provenance"]
    assert set(provenance["versions"]) == {"numpy", "python"}
    assert provenance["device"] is None
    expected = hashlib.sha256(b"[1]").hexdigest()[:16]
    assert provenance["inputs"] == {str(folder / "given.json"): expected}
    assert provenance["peak_memory_mb"] > 1
    assert 0 <= headline["seconds"] < 60
    assert "done, peak memory" in (folder / "logs" / "demo.log").read_text()


def test_torch_is_resolved_and_named(run):
    folder = run("job.use_torch()")
    provenance = read_json(folder / "results" / "demo.json")["provenance"]
    assert provenance["device"] == "cpu"
    assert provenance["threads"] == 1


def test_torch_is_deterministic_without_its_compiler():
    """`use_deterministic_algorithms` would set the same two switches and load torch.compile."""
    program = """
        import sys
        from types import SimpleNamespace
        from mneme.core.stage import Stage
        params, none = SimpleNamespace(device="cpu"), SimpleNamespace()
        given = {"input": [], "output": [], "params": params, "wildcards": none, "log": []}
        Stage(SimpleNamespace(**given, threads=1)).use_torch()
        import torch
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.backends.cudnn.allow_tf32
        assert "torch._dynamo" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


@pytest.mark.parametrize(
    ("body", "params", "sentence"),
    [
        ("pass", {"config": {"x": "a"}}, "demo.x must be float, got 'a'"),
        ("pass", {"config": {"x": 1.0, "y": 2}}, "demo.y is not a known key"),
        ("raise ValueError('the corpus is empty: add documents')", {}, "the corpus is empty"),
        (f"raise OSError({errno.ENOSPC}, 'full')", {}, "no space left on the disk: free some"),
        (f"raise OSError({errno.EROFS}, 'fixed', '/b')", {}, "/b cannot be used (fixed): allow"),
        (f"raise OSError({errno.EACCES}, 'closed')", {}, "a file cannot be used (closed): allow"),
        (
            "raise type('OutOfMemoryError', (RuntimeError,), {})('CUDA out of memory. Tried ...')",
            {},
            "CUDA is out of memory: in room routing lower routing.protocol.batch, "
            "routing.calibration.batch, routing.prepare.calibration_chunks, or batch and tokens",
        ),
    ],
)
def test_a_users_mistake_is_one_sentence_and_no_file(run, capsys, tmp_path, body, params, sentence):
    with pytest.raises(SystemExit) as stop:
        run(body, **params)
    assert stop.value.code == 1
    shown = capsys.readouterr().err
    assert f"ERROR: {sentence}" in shown
    assert "Traceback" not in shown
    assert f"ERROR: {sentence}" in (tmp_path / "logs" / "demo.log").read_text()
    assert not (tmp_path / "results" / "demo.json").exists()
    assert not (tmp_path / "logs" / "demo.json").exists()


def test_the_keys_that_running_out_of_memory_names_exist(run, capsys):
    with pytest.raises(SystemExit):
        run("raise type('OutOfMemoryError', (RuntimeError,), {})('CUDA out of memory')")
    names = re.findall(r"\b(?:routing|zeta|ttt|lattice)(?:\.\w+)+", capsys.readouterr().err)
    assert {name.split(".")[0] for name in names} == {"routing", "zeta", "ttt", "lattice"}
    for name in names:
        block = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
        for key in name.split("."):
            assert key in block, name
            block = block[key]


def test_a_finished_step_leaves_its_time_memory_and_device_beside_its_log(run, tmp_path):
    run("import time; time.sleep(0.05); job.use_torch()")
    log = tmp_path / "logs" / "demo.log"
    record = read_json(tmp_path / "logs" / "demo.json")
    assert set(record) == {"step", "seconds", "peak_memory_mb", "device", "device_name"}
    assert 0.05 <= record["seconds"] < 60
    assert record["peak_memory_mb"] > 1
    assert (record["step"], record["device"], record["device_name"]) == ("demo", "cpu", "cpu")
    assert read_record(log) == {**record, "reason": None}


def test_a_failed_step_leaves_no_record_of_an_earlier_one(run, tmp_path):
    run()
    assert (tmp_path / "logs" / "demo.json").exists()
    with pytest.raises(SystemExit):
        run("raise ValueError('no')")
    assert not (tmp_path / "logs" / "demo.json").exists()


def test_a_missing_record_is_told_with_its_reason(tmp_path):
    record = read_record(tmp_path / "logs" / "fit" / "sleep.log")
    assert record["step"] == "fit/sleep"
    assert record["seconds"] is record["peak_memory_mb"] is record["device"] is None
    assert "logs/fit/sleep.json is missing: made before records were kept" in record["reason"]


def test_equal_inputs_give_equal_headlines_but_for_time_and_memory(run, tmp_path):
    def made():
        content = read_json(run() / "results" / "demo.json")
        del content["seconds"], content["provenance"]["peak_memory_mb"]
        return json.dumps(content)

    assert made() == made()


def test_a_gpu_that_is_asked_for_and_absent_stops_the_run(run, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        run("job.use_torch()", device="cuda")
    assert "ERROR: device is cuda but no CUDA GPU is visible" in capsys.readouterr().err


def test_a_log_that_cannot_be_written_does_not_hide_the_sentence(run, capsys, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "demo.log").symlink_to("/dev/full")
    with pytest.raises(SystemExit):
        run("raise ValueError('the corpus is empty: add documents')")
    shown = capsys.readouterr().err
    assert "ERROR: the corpus is empty: add documents" in shown
    assert "Traceback" not in shown


def test_a_finished_step_leaves_the_digest_of_its_output(run, tmp_path):
    run()
    made = tmp_path / "results" / "demo.json"
    assert sidecar(made).read_text() == f"{sha256_of(made)}  demo.json\n"


def test_a_failed_step_leaves_no_digest_of_an_earlier_one(run, tmp_path):
    run()
    with pytest.raises(SystemExit):
        run("raise ValueError('no')")
    assert not sidecar(tmp_path / "results" / "demo.json").exists()


def test_an_input_that_changed_after_it_was_made_is_refused(run, capsys, tmp_path):
    given = tmp_path / "given.json"
    sidecar(given).write_text(f"{'0' * 64}  given.json\n")
    with pytest.raises(SystemExit):
        run()
    sentence = f"ERROR: {given} is damaged (its SHA-256 is not the one it was written with)"
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "results" / "demo.json").exists()


def test_what_a_resumable_part_is_made_by_changes_with_its_inputs(run, tmp_path):
    def made_by(given):
        run("job.log(job.fingerprint())", given=given)
        return re.search(r"[0-9a-f]{16}", (tmp_path / "logs" / "demo.log").read_text())[0]

    assert made_by("[1]") == made_by("[1]")
    assert made_by("[1]") != made_by("[2]")


def test_our_own_mistakes_keep_their_traceback(run, tmp_path):
    with pytest.raises(AssertionError, match="ours"):
        run("assert False, 'ours'")
    log = (tmp_path / "logs" / "demo.log").read_text()
    assert "failed: AssertionError: ours" in log
    assert "Traceback" in log


def test_an_undefined_value_needs_a_reason(run, capsys):
    with pytest.raises(SystemExit):
        run("Row(metric='lag', value=None)")
    assert "lag: an undefined value needs a reason" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("Row(metric='lag', value=float('nan'))")
    assert "lag.value must be finite or None" in capsys.readouterr().err


def test_an_old_log_is_started_afresh(run, tmp_path):
    run("job.log('first')")
    run("job.log('second')")
    log = (tmp_path / "logs" / "demo.log").read_text()
    assert "second" in log
    assert "first" not in log
