"""Environment check: each rule on planted facts, and the real machine once."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from mneme.core import environment
from mneme.core.environment import (
    Check,
    EnvironmentCheckError,
    EnvironmentConfig,
    check_environment,
    dependency_checks,
    disk_check,
    gpu_checks,
    memory_check,
    python_check,
    refuse_failed,
    threads_check,
)


def config(device):
    return EnvironmentConfig(device=device, results="results")


def test_this_machine_can_run_the_default(tmp_path):
    checks = check_environment(config("cpu"), threads=1)
    by_name = {check.name: check for check in checks}
    assert len(by_name) == len(checks)
    assert by_name["torch"].value == torch.__version__
    assert {"python", "transformers", "threads", "host_memory_gib", "disk_free_gib", "cuda"} <= set(
        by_name
    )
    refuse_failed(checks)
    json.dumps([check.as_dict() for check in checks], allow_nan=False)


def test_versions_are_compared_with_the_packages_own_ranges():
    checks = dependency_checks(
        ["numpy>=2.0", "numpy<1", "no-such-distribution>=1", 'pytest>=8; extra == "dev"']
    )
    assert [check.status for check in checks] == ["pass", "fail", "fail"]
    assert checks[1].advice == 'run `pip install "numpy<1"`'
    assert checks[2].value is None


def test_every_dependency_and_torch_2_8_is_checked(monkeypatch):
    real = environment.importlib.metadata.version
    monkeypatch.setattr(
        environment.importlib.metadata,
        "version",
        lambda name: "2.7.1" if name == "torch" else real(name),
    )
    checks = check_environment(config("auto"), threads=1)
    assert [check.name for check in checks if check.status == "fail"] == ["torch"]
    with pytest.raises(EnvironmentCheckError, match=r"torch: found 2.7.1; run `pip install"):
        refuse_failed(checks)


def test_an_old_python_fails(monkeypatch):
    monkeypatch.setattr(environment.platform, "python_version", lambda: "3.10.1")
    assert python_check().status == "fail"


def test_gpu_asked_and_absent_ends_in_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    checks = gpu_checks("cuda")
    assert checks[0].status == "fail"
    with pytest.raises(EnvironmentCheckError, match="set device: cpu") as error:
        refuse_failed(checks)
    assert "\n" not in str(error.value)
    refuse_failed(gpu_checks("auto"))
    refuse_failed(gpu_checks("cpu"))


def plant_gpu(monkeypatch, *, major, free):
    fake = {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "get_device_properties": lambda index: SimpleNamespace(name="Card", major=major, minor=5),
        "is_bf16_supported": lambda including_emulation: major >= 8,
        "mem_get_info": lambda index: (free * 2**30, 80 * 2**30),
    }
    for name, value in fake.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    return {check.name: check for check in gpu_checks("cuda")}


def test_a_recent_gpu_passes(monkeypatch):
    checks = plant_gpu(monkeypatch, major=9, free=79)
    assert {check.status for check in checks.values()} == {"pass"}
    assert checks["device_name"].value == "Card"
    assert checks["capability"].value == "9.5"
    assert checks["device_memory_gib"].value == 80


def test_an_old_or_crowded_gpu_warns(monkeypatch):
    checks = plant_gpu(monkeypatch, major=7, free=20)
    warned = sorted(name for name, check in checks.items() if check.status == "warn")
    assert warned == ["bf16", "capability", "device_memory_free_gib"]
    assert "float32" in checks["capability"].advice
    refuse_failed(list(checks.values()))


def test_threads_memory_and_disk_at_their_limits(tmp_path, monkeypatch):
    assert threads_check(2, 2).status == "pass"
    assert threads_check(3, 2).status == "warn"
    assert memory_check(4.0).status == "pass"
    assert memory_check(3.9).status == "warn"
    for free, status in ((5.0, "pass"), (2.0, "warn"), (0.5, "fail")):
        usage = SimpleNamespace(free=free * 2**30)
        monkeypatch.setattr(shutil, "disk_usage", lambda place, usage=usage: usage)
        assert disk_check(tmp_path / "not" / "there").status == status


def test_the_first_failed_check_is_named():
    checks = [Check("a", 1.0, "pass"), Check("b", None, "fail", "do this"), Check("c", 2.0, "fail")]
    with pytest.raises(EnvironmentCheckError, match="b: found none; do this"):
        refuse_failed(checks)
