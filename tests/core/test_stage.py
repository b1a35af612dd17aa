"""The frame of a script, run without Snakemake."""

from __future__ import annotations

import errno
import runpy
from types import SimpleNamespace

import pytest

from mneme.core.artefacts import read_json

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


class Namelist(list):
    """A list with names, like Snakemake's."""


@pytest.fixture
def run(tmp_path):
    """Run a script of one body under a stand-in for Snakemake; returns its folder."""

    def call(body="pass", **params):
        script = tmp_path / "demo.py"
        script.write_text(SCRIPT.format(body=body))
        base = {"config": {"x": 0.5}, "code": "0" * 16, "packages": ["numpy"], "device": "cpu"}
        snakemake = SimpleNamespace(
            input=Namelist(),
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
    assert headline["code"] == "0" * 16
    assert headline["config"] == {"x": 0.5}
    assert headline["runs"]["ours"]["rows"][0]["value"] == 0.5
    provenance = headline["provenance"]
    assert set(provenance["versions"]) == {"numpy", "python"}
    assert provenance["device"] is None
    assert provenance["peak_memory_mb"] > 1
    assert 0 <= headline["seconds"] < 60
    assert "done, peak memory" in (folder / "logs" / "demo.log").read_text()


def test_torch_is_resolved_and_named(run):
    folder = run("job.use_torch()")
    provenance = read_json(folder / "results" / "demo.json")["provenance"]
    assert provenance["device"] == "cpu"
    assert provenance["threads"] == 1


@pytest.mark.parametrize(
    ("body", "params", "sentence"),
    [
        ("pass", {"config": {"x": "a"}}, "demo.x must be float, got 'a'"),
        ("pass", {"config": {"x": 1.0, "y": 2}}, "demo.y is not a known key"),
        ("raise ValueError('the corpus is empty: add documents')", {}, "the corpus is empty"),
        (f"raise OSError({errno.ENOSPC}, 'full')", {}, "no space left on the disk: free some"),
        (
            "raise type('OutOfMemoryError', (RuntimeError,), {})('CUDA out of memory. Tried ...')",
            {},
            "CUDA is out of memory: lower routing.protocol.batch, or batch and tokens of routing.",
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


def test_a_gpu_that_is_asked_for_and_absent_stops_the_run(run, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        run("job.use_torch()", device="cuda")
    assert "ERROR: device is cuda but no CUDA GPU is visible" in capsys.readouterr().err


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
