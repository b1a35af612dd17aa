import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from leftover import left_by_a_dead_process

from mneme.core import checkpoints
from mneme.core.artefacts import ArtefactError
from mneme.core.checkpoints import Training, remove, restore, run_steps, save

STEPS = 40


def make(width=3):
    """A training that uses everything a checkpoint holds: momentum, both kinds of generators."""
    weight = torch.nn.Parameter(torch.zeros(width, 2))
    training = Training(
        tensors={"weight": weight},
        optimizers={"adam": torch.optim.AdamW([weight], lr=0.1, foreach=True)},
        torch_generators={"noise": torch.Generator().manual_seed(7)},
        numpy_generators={"order": np.random.default_rng(7)},
    )

    def step(index):
        noise = torch.randn(width, 2, generator=training.torch_generators["noise"])
        scale = training.numpy_generators["order"].normal()
        loss = ((weight - noise) ** 2).mean() * scale**2 + index * 1e-3
        training.optimizers["adam"].zero_grad()
        loss.backward()
        training.optimizers["adam"].step()
        return {"loss": loss.item(), "name": f"step {index}"}

    return training, step


def run(path, training, step, **changes):
    lines = []
    settings = dict(steps=STEPS, fingerprint="f", label="toy", save_every_s=0.0) | changes
    run_steps(step, training, path=path, log=lines.append, **settings)
    return lines


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", [0, 1, 17, STEPS - 1])
def test_stopped_and_continued_equals_uninterrupted(tmp_path, at):
    whole, step = make()
    run(tmp_path / "whole", whole, step)
    first, step = make()

    def dies(index):
        if index == at:
            raise Killed
        return step(index)

    with pytest.raises(Killed):
        run(tmp_path / "c", first, dies)
    second, step = make()
    calls = []
    lines = run(tmp_path / "c", second, lambda index: calls.append(index) or step(index))
    assert calls == list(range(at, STEPS))
    assert torch.equal(second.tensors["weight"], whole.tensors["weight"])
    assert second.history == whole.history
    assert len(second.history) == STEPS
    if at:
        assert lines[0] == f"toy: continuing after step {at}/{STEPS} from {tmp_path / 'c'}"
    assert lines[-1].startswith(f"toy: step {STEPS}/{STEPS}, loss ")


CHILD = """
    import sys, time
    sys.path[:0] = {places!r}
    import torch
    torch.set_num_threads(1)
    from test_checkpoints import make, run
    training, step = make(width=500)
    def slow(index):
        record = step(index)
        time.sleep(0.01)
        print(index, flush=True)
        return record
    run({path!r}, training, slow)
    torch.save(training.tensors["weight"].detach(), {final!r})
"""


def test_kill_9_at_a_random_moment(tmp_path):
    def spawn(name):
        names = {"path": str(tmp_path / name), "final": str(tmp_path / f"{name}.final")}
        places = [str(place) for place in Path(__file__).parents[:2]]
        source = textwrap.dedent(CHILD.format(places=places, **names))
        return subprocess.Popen(
            [sys.executable, "-c", source], stdout=subprocess.PIPE, text=True, cwd=tmp_path
        )

    child = spawn("c")
    wait = np.random.default_rng().integers(3, STEPS - 3)
    for line in child.stdout:
        if int(line) >= wait:
            break
    time.sleep(0.005 * np.random.default_rng().random())
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    child = spawn("c")
    finished, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert 0 < int(finished.split()[0]) < STEPS  # it did continue
    whole, step = make(width=500)
    run(tmp_path / "whole", whole, step)
    assert torch.equal(torch.load(tmp_path / "c.final"), whole.tensors["weight"])


def test_a_finished_training_does_no_step(tmp_path):
    training, step = make()
    run(tmp_path / "c", training, step)
    again, _ = make()
    run(tmp_path / "c", again, lambda index: pytest.fail("a step was repeated"))
    assert torch.equal(again.tensors["weight"], training.tensors["weight"])
    left_by_a_dead_process(tmp_path / "c").touch()
    remove(tmp_path / "c")
    remove(tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_saving_rarely_gives_the_same(tmp_path):
    often, step = make()
    run(tmp_path / "often", often, step)
    rarely, step = make()
    run(tmp_path / "rarely", rarely, step, save_every_s=1e9)
    assert torch.equal(often.tensors["weight"], rarely.tensors["weight"])


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "other"])
def test_damaged_checkpoint_is_one_sentence(tmp_path, damage):
    path = tmp_path / "c"
    training, step = make()
    run(path, training, step)
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        raw[-200] ^= 1
    cut = {"truncate": raw[:-100], "empty": b"", "flip": raw, "other": b"not a checkpoint" * 9}
    path.write_bytes(cut[damage])
    training, step = make()
    with pytest.raises(ArtefactError, match=r"/c is damaged: delete it and run again$"):
        run(path, training, step)
    assert training.tensors["weight"].abs().sum() == 0


def test_a_foreign_pickle_is_never_run(tmp_path):
    from mneme.core import checkpoints

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    import hashlib
    import io

    buffer = io.BytesIO()
    torch.save({"step": Bomb()}, buffer)
    payload = buffer.getvalue()
    digest = hashlib.sha256(payload).digest()
    (tmp_path / "c").write_bytes(checkpoints._MAGIC + digest + payload)
    training, _ = make()
    with pytest.raises(ArtefactError, match="was not written by mneme: delete it and run again"):
        restore(tmp_path / "c", training, fingerprint="f", log=print)
    assert not (tmp_path / "exploded").exists()


def test_other_settings_start_from_the_beginning_with_a_line(tmp_path):
    training, step = make()
    run(tmp_path / "c", training, step, steps=5)
    fresh, step = make()
    lines = run(tmp_path / "c", fresh, step, fingerprint="g")
    assert "other settings" in lines[0]
    whole, step = make()
    run(tmp_path / "whole", whole, step)
    assert torch.equal(fresh.tensors["weight"], whole.tensors["weight"])


def test_full_disk_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    training, step = make()
    run(tmp_path / "c", training, step, steps=5)
    before = (tmp_path / "c").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtefactError, match=r"no space left on the disk while writing .*/c"):
        save(tmp_path / "c", training, step=6, fingerprint="f")
    assert (tmp_path / "c").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_what_takes_long_to_save_is_saved_less_often(tmp_path, monkeypatch):
    saves = []

    def slow(path, training, *, step, fingerprint):
        saves.append(step)
        time.sleep(0.1)

    monkeypatch.setattr(checkpoints, "save", slow)
    monkeypatch.setattr(checkpoints, "SAVE_SHARE", 0.001)  # 100 s until the next
    training, step = make()
    run(tmp_path / "c", training, step, save_every_s=1e-9)
    assert saves == [1, STEPS]
    saves.clear()
    run(tmp_path / "every", *make(), save_every_s=0.0)
    assert saves == list(range(1, STEPS + 1))
