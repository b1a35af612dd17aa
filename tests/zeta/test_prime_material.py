"""Arm `primes_transformer`: what each position is told, and that nothing later or absolute is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from zeta_runs import CARRY, run_of

from mneme.core.config import ConfigError, build
from mneme.core.seeds import torch_generator
from mneme.zeta import material as plain_material
from mneme.zeta import prime_material
from mneme.zeta.config import ModelConfig, PredictConfig, TrainingConfig
from mneme.zeta.fit import fit
from mneme.zeta.measure import window_metrics
from mneme.zeta.network import build_network
from mneme.zeta.predict import read
from mneme.zeta.prime_config import RowConfig
from mneme.zeta.prime_material import fit_material, told_material, with_rows
from mneme.zeta.prime_rows import FIRST, prime_rows
from mneme.zeta.reading import window_nll
from mneme.zeta.unfold import level_of, spacings_of
from mneme.zeta.zeros import zeros

WINDOW, CPU = 144, torch.device("cpu")
RUN = run_of("primes_transformer")
ROWS = build(
    RowConfig,
    {
        "memory": {"limit": 43, "time": 100.0, "order": 4, "refresh": 64},
        "sum": {"integers": 46, "cut": 3.0, "anchors": 8},
        "lags": 4,
    },
    where="rows",
)
SIZES = ModelConfig(
    layers=1, heads=2, width=16, components=3, window=WINDOW, slots=8, scale_floor=1e-3
)
TRAINING = TrainingConfig(
    steps=60,
    batch=4,
    learning_rate=1e-2,
    memory_learning_rate=0.3,
    warmup=5,
    weight_decay=0.1,
    clip=1.0,
    eval_every=30,
    eval_windows=4,
)


@pytest.fixture(scope="module")
def series():
    heights = zeros(2000, 2000 + 30 * WINDOW + 1, threads=1, log=lambda _: None).heights
    heights = np.round(heights * 2**20) / 2**20  # differences stay exact when all are shifted
    return {"spacings": spacings_of(heights), "heights": heights}


def network_of(material):
    network = build_network(RUN, SIZES, carry=None, seed=0, rows=ROWS)
    network.adapt(material)
    with torch.no_grad():
        network.model.shortcut.weight.normal_(std=0.3, generator=torch_generator(1, "shortcut"))
    return network.eval()


def means_of(network, material, rows):
    with torch.no_grad():
        return network(material, torch.tensor(rows), slots=None).mixture.means


def fitted(series, run, folder, **changes):
    rows = ROWS if run.arm == "primes_transformer" else None
    return fit(
        fit_material(series, run, WINDOW, rows),
        run,
        SIZES,
        dataclasses.replace(TRAINING, **changes),
        carry=None,
        seed=0,
        device=CPU,
        checkpoint=folder / "checkpoint",
        fingerprint=run.arm,
        log=lambda _: None,
        label="test",
        rows=rows,
    )


def test_a_position_is_told_the_row_of_the_zero_that_ends_its_spacing(series):
    material = fit_material(series, RUN, WINDOW, ROWS)
    heights, levels = series["heights"], level_of(series["heights"])
    for window, place in ((1, 0), (5, 17), (26, WINDOW - 2)):
        zero = window * WINDOW + place + 1  # where spacing `place` of the window ends
        (row,) = prime_rows(heights, levels, np.array([zero]), ROWS, phases="memory")
        told = material.told(torch.tensor([window]))[0, place]
        np.testing.assert_allclose(told, row, rtol=1e-3, atol=1e-4)
    told = material.told(material.train)[:, :, FIRST]
    error = (told - material.spacings_WT[material.train, 1:]).abs()
    assert error.median() < 0.1  # the candidate is the spacing that the position predicts


def test_windows_without_anything_to_remember_do_not_train(series):
    material = fit_material(series, RUN, WINDOW, ROWS)
    assert material.train.tolist() == list(range(1, 24))
    assert material.val.tolist() == [24, 25, 26]
    with pytest.raises(AssertionError, match="other windows"):
        material.told(torch.tensor([0]))
    plain = fit_material(series, run_of("none"), WINDOW, None)
    assert plain.train.tolist() == list(range(24))
    assert plain.told_UTF is None
    assert told_material(series, RUN, WINDOW, ROWS).told(torch.tensor([27, 28, 29])).shape[0] == 3


def test_nothing_later_changes_a_prediction(series):
    material, window, place = told_material(series, RUN, WINDOW, ROWS), 28, 70
    network = network_of(dataclasses.replace(material, train=torch.tensor([27, 28, 29])))
    before = means_of(network, material, [window])[0]
    heights = series["heights"].copy()
    zero = window * WINDOW + place + 1
    heights[zero + 1 :] += np.linspace(0.01, 5, len(heights) - zero - 1)
    later = {"heights": heights, "spacings": spacings_of(heights)}
    after = means_of(network, told_material(later, RUN, WINDOW, ROWS), [window])[0]
    torch.testing.assert_close(after[: place + 1], before[: place + 1], rtol=1e-3, atol=1e-3)
    assert (after[place + 1 :] - before[place + 1 :]).abs().max() > 0.1


def test_shifting_all_heights_at_fixed_level_changes_no_bit(series, monkeypatch):
    levels = level_of(series["heights"])
    for module in (plain_material, prime_material):
        monkeypatch.setattr(module, "level_of", lambda heights: levels[: len(heights)])
    material = told_material(series, RUN, WINDOW, ROWS)
    network = network_of(dataclasses.replace(material, train=torch.tensor([27, 28, 29])))
    before = means_of(network, material, [27, 28, 29])
    moved = {"heights": series["heights"] + 12_345, "spacings": series["spacings"]}
    shifted = told_material(moved, RUN, WINDOW, ROWS)
    assert torch.equal(means_of(network, shifted, [27, 28, 29]), before)
    one = np.array([28])  # and a row that is another changes the prediction
    other = with_rows(material, {**series, "heights": series["heights"] ** 1.001}, one, ROWS)
    assert not torch.equal(means_of(network, other, [28])[0], before[1])


def test_it_learns_from_the_memory_what_the_window_does_not_tell(series, tmp_path):
    nll = {}
    for arm in ("primes_transformer", "none"):
        (tmp_path / arm).mkdir()
        done = fitted(series, run_of(arm), tmp_path / arm)
        nll[arm] = done.history["val_nll_all"]
        rolled = {"err_source@10" in point for point in done.history["points"]}
        assert rolled == {arm == "none"}
    assert nll["primes_transformer"] < nll["none"] - 0.4


def test_units_come_from_training_and_stay_with_the_weights(series, tmp_path):
    done = fitted(series, RUN, tmp_path, steps=4, warmup=0)
    material = fit_material(series, RUN, WINDOW, ROWS)
    told = done.network.scaler(material.told(material.train)).flatten(0, 1)
    assert told.median(0).values.abs().max() < 2
    assert told.abs().max() <= 8
    again = build_network(RUN, SIZES, carry=None, seed=0, rows=ROWS)
    again.load_state_dict(done.last)
    nll = [window_nll(n, material, material.val) for n in (done.network, again)]
    assert torch.equal(*nll)


def test_it_is_read_whole_and_not_rolled_out(series):
    material = told_material(series, RUN, WINDOW, ROWS)
    network = network_of(dataclasses.replace(material, train=torch.tensor([27, 28, 29])))
    found = read(
        network,
        series,
        RUN,
        PredictConfig(full_stride=48, horizon=16, samples=2),
        window=WINDOW,
        generator=torch_generator(0, "rollout"),
        device=CPU,
        rows=ROWS,
    )
    np.testing.assert_array_equal(found["nll_full_WX"], found["nll_WT"][:, -48:])
    kept = {k: a for k, a in found.items() if k not in ("windows_W", "heights_W")}
    wanted = {"nll", "nll_full", "crps", "crps_full", "mae", "mae_full"}
    assert set(window_metrics(kept, horizons=(10, 16))) == wanted
    exact = window_nll(network, material, torch.tensor([27, 28, 29])).numpy()
    np.testing.assert_allclose(found["nll_WT"].mean(1), exact, rtol=1e-4)


@pytest.mark.parametrize(("arm", "rows"), [("none", ROWS), ("primes_transformer", None)])
def test_rows_are_given_exactly_where_they_are_read(arm, rows):
    with pytest.raises(ConfigError, match="rows must be given exactly for arm primes_transformer"):
        build_network(run_of(arm), SIZES, carry=None, seed=0, rows=rows)
    with pytest.raises(ConfigError, match="carry must be given exactly"):
        build_network(RUN, SIZES, carry=CARRY, seed=0, rows=ROWS)
