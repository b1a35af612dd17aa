"""Every run is set against those that differ by one part, as the configurations have them."""

from __future__ import annotations

import dataclasses

import pytest
from zeta_runs import room, run_of

from mneme.core.config import build
from mneme.zeta.partners import lacks_memory, partners, plainly
from mneme.zeta.settings import ZetaConfig

E1 = {"drift_every": 20, "drift_horizon": 10, "drift_batch": 16}


@pytest.fixture(scope="module", params=["long", "gpu"])
def runs(request):
    return build(ZetaConfig, room(request.param), where="config.zeta").runs


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("e0", set()),
        ("e0_distance", set()),
        ("v0", {"e0"}),
        ("v0_id", {"e0", "v0"}),
        ("v1", {"e0", "v0_id"}),
        ("slot_dropout", {"e0", "v0_id"}),
        ("q3_task", {"e0", "v0_id"}),
        ("q3", {"e0", "q3_task"}),
        ("e0_drift_e2", {"e0"}),
        ("e1", {"e0", "e0_drift_e1", "v0_id"}),
        ("e1_w01", {"e0", "e0_drift_e1_w01", "v0_id"}),
        ("e2", {"e0", "e0_drift_e2", "v0_id"}),
        ("e3", {"e0", "e0_drift_e3", "v0_id"}),
        ("readout", {"e0", "v0"}),
        ("film", {"e0", "v0"}),
        ("gating", {"e0", "v0"}),
        ("cross", {"e0", "v0"}),
        ("carry", {"e0", "carry_reset"}),
        ("carry_reset", {"e0"}),
        ("carry_gue", {"e0_gue", "carry_reset_gue"}),
        ("carry_scrambled", {"e0_scrambled"}),
        ("primes", {"e0"}),
        ("primes_gue", {"e0_gue"}),
        ("primes_shuffled", set()),
        ("original", {"original_e0"}),
        ("original_e0", set()),
    ],
)
def test_partners_differ_by_one_part(runs, name, expected):
    assert set(partners(name, runs)) == expected


def test_the_default_has_the_partners_that_its_claims_name():
    runs = build(ZetaConfig, room(), where="config.zeta").runs
    assert set(partners("v1", runs)) == {"e0"}
    assert set(partners("e2", runs)) == {"e0"}
    assert set(partners("carry_gue", runs)) == {"e0_gue", "carry_reset_gue"}


def test_without_memory_means_with_the_same_drift_loss():
    slots, bare = run_of("prefix", drift_weight=0.1), run_of("none", drift_weight=0.1)
    assert lacks_memory(slots, bare)
    assert not lacks_memory(slots, run_of("none"))
    assert not lacks_memory(run_of("prefix"), bare)
    assert not lacks_memory(bare, bare)
    for change in ({"drift_weight": 0.2}, {"drift_every": 5}, {"drift_schedule": "linear"}):
        assert not lacks_memory(slots, dataclasses.replace(bare, **change))
    told = run_of("prefix", aux="q3", aux_weight=0.1, regularise=True, slot_dropout=0.1)
    assert lacks_memory(told, run_of("none"))


def test_settings_of_what_is_off_are_no_difference():
    """Every run of the configurations has drift settings, whether it drifts or not."""
    assert plainly(run_of("none", **E1)) == plainly(run_of("none", control_of="e1"))
    off = {"e0": run_of("none", **E1), "v1": run_of("prefix", aux_weight=0.3)}
    assert partners("v1", off) == ["e0"]
    drifting = {"e0": run_of("none", drift_weight=0.1, **E1), "v1": run_of("prefix")}
    assert partners("v1", drifting) == []
