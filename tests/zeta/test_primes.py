"""Prime memory, main sum and rows: known zeros, slow sums, nothing later, nothing absolute."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.core.config import ConfigError, build, plain
from mneme.zeta.prime_rows import FIRST, RowConfig, prime_rows
from mneme.zeta.prime_sum import FINE, MainSum, SumConfig
from mneme.zeta.primes import (
    TURN,
    MemoryConfig,
    phases_of,
    prime_phases,
    primes_up_to,
    remember,
    start_memory,
)
from mneme.zeta.unfold import level_of, spacings_of
from mneme.zeta.zeros import zeros

MEMORY = {"limit": 43, "time": 100.0, "order": 4, "refresh": 64}
ROWS = {"memory": MEMORY, "sum": {"integers": 46, "cut": 3.0, "anchors": 16}, "lags": 4}


def row_config(**memory):
    return build(RowConfig, ROWS | {"memory": MEMORY | memory}, where="rows")


@pytest.fixture(scope="module")
def heights():
    """Zeros 2000 to 6800, heights 2,516 to 7,083: 20 to 33 integers matter."""
    return zeros(2000, 6800, threads=1, log=lambda _: None).heights


@pytest.fixture(scope="module")
def rows(heights):
    asked = np.arange(64, len(heights))
    return prime_rows(heights, level_of(heights), asked, row_config(), phases="memory")


def exact(primes, heights):
    return np.exp(-1j * np.log(primes)[:, None] * heights)


def test_primes():
    assert primes_up_to(31).tolist() == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31]
    assert primes_up_to(2).tolist() == [2]


def test_past_zeros_hold_the_phase_of_every_prime(heights):
    config = row_config().memory
    wanted = np.zeros(-(-len(heights) // 64), bool)
    wanted[-5:] = True
    for block in prime_phases(heights, level_of(heights), config, halo=3, wanted=wanted):
        truth_PB = exact(primes_up_to(43), heights[block.start - 3 : block.stop])
        # 41 and 43 lie .048 apart: (.048 x 100)^-4 of a neighbour's weight leaks in
        assert np.abs(block.phases_PB - truth_PB).max() < 0.01
        assert np.abs(block.phases_PB - truth_PB)[:6].max() < 1e-4


def test_random_points_hold_no_phase():
    heights = 2500 + np.cumsum(np.random.default_rng(1).exponential(1.0, 4000))
    config = row_config().memory
    wanted = np.arange(63) >= 40
    levels = np.full(4000, TURN)  # one point a unit of t
    blocks = list(prime_phases(heights, levels, config, halo=0, wanted=wanted))
    sizes_PB = np.stack([np.abs(block.phases_PB[:, 0]) for block in blocks], axis=1)
    # standard deviation of the sum: sqrt(int w^2) = sqrt(.156 T); scale 2 pi sqrt(p) / (log p T)
    expected_P = np.sqrt(0.15625 * 100) * TURN * np.sqrt(primes_up_to(43))
    expected_P /= np.log(primes_up_to(43)) * 100
    rms_P = np.sqrt((sizes_PB**2).mean(1))
    assert np.abs(np.log(rms_P / expected_P)).mean() < 0.5


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 40), st.floats(2.0, 50.0))
def test_the_state_is_the_sum_over_past_zeros(seed, order, refresh, time):
    """An independent slow sum; the state has gone through renewals of any length."""
    heights = 100 + np.cumsum(np.random.default_rng(seed).uniform(0.1, 1.5, 90))
    config = MemoryConfig(limit=13, time=time, order=order, refresh=refresh)
    levels = level_of(heights)
    wanted = np.ones(-(-90 // refresh), bool)
    for block in prime_phases(heights, levels, config, halo=2, wanted=wanted):
        past = heights[: block.start + 1]
        ages = (past[-1] - past) / time
        window = ages ** (order - 1) / np.prod(np.arange(1, order)) * np.exp(-ages)
        frequencies = np.log([2, 3, 5, 7, 11, 13])
        slow_P = [sum(window * np.exp(1j * f * (past - past[-1]))) for f in frequencies]
        np.testing.assert_allclose(block.memory.sums_MP[-1], slow_P, rtol=1e-9, atol=1e-9)
        assert block.memory.elapsed == pytest.approx(past[-1] - past[0], abs=1e-9)


def test_memory_in_pieces_equals_memory_at_once(heights):
    config = row_config().memory
    at_once = remember(start_memory(heights[0], config), heights[1:200], config)
    piece = remember(start_memory(heights[0], config), heights[1:77], config)
    piece = remember(piece, heights[77:200], config)
    np.testing.assert_allclose(piece.sums_MP, at_once.sums_MP, rtol=1e-10)
    level = float(level_of(heights[199]))
    np.testing.assert_allclose(
        phases_of(piece, level, config), phases_of(at_once, level, config), rtol=1e-9
    )


def test_powers_are_products_of_remembered_primes():
    main_sum = MainSum(primes_up_to(5), SumConfig(integers=50, cut=3.0, anchors=4))
    heights = np.array([1000.0, 1234.5])
    powers_NB = main_sum.powers(exact(primes_up_to(5), heights))
    smooth = [
        n
        for n in range(1, 51)
        if all(n % p for p in (7, 11, 13, 17, 19, 23, 29, 31, 37)) and n not in (41, 43, 47)
    ]
    rest = sorted(set(range(1, 51)) - set(smooth))
    truth_NB = exact(np.array(smooth), heights)
    np.testing.assert_allclose(powers_NB[np.array(smooth) - 1], truth_NB, atol=2e-6)
    assert not powers_NB[np.array(rest) - 1].any()


def test_the_sum_ends_softly_at_the_root_of_t_over_2_pi():
    main_sum = MainSum(primes_up_to(43), SumConfig(integers=46, cut=3.0, anchors=4))
    v_N = main_sum.weights(np.array([2 * np.log(30.0)]))[:, 0] * np.sqrt(main_sum.n)
    assert v_N[29] == pytest.approx(0.5, abs=1e-6)
    assert v_N[0] == pytest.approx(1, abs=1e-6)
    assert v_N[45] < 1e-4
    assert (np.diff(v_N) <= 1e-6).all()


def test_exact_phases_give_the_next_two_zeros(heights):
    """Riemann-Siegel itself, to what rounding L leaves: arm `oracle`."""
    levels = np.log(heights / TURN)
    asked = np.arange(64, len(heights) - 2)
    found = prime_rows(heights, levels, asked, row_config(), phases="height")
    truth = spacings_of(heights)
    inside = found[:, FIRST] + found[:, 1] < 4  # the grid ends at 4.5
    assert inside.mean() > 0.98
    error = np.abs(found[:, FIRST] - truth[asked])[inside]
    assert np.median(error) < 3e-4
    assert np.quantile(error, 0.999) < 0.03
    second = np.abs(found[:, 1] - truth[asked + 1])[inside]
    assert np.median(second) < 1e-3


def test_lehmers_pair_is_seen_between_two_points_of_the_grid(heights):
    """Zeros 6709 and 6710 at 7005.06 and 7005.10 lie .042 mean spacings apart."""
    before = 6708 - 2000
    assert heights[before + 1] == pytest.approx(7005.0629, abs=1e-4)
    asked = np.array([before])
    found = prime_rows(heights, level_of(heights), asked, row_config(), phases="height")[0]
    truth = spacings_of(heights)
    assert truth[before + 1] < FINE[1]
    assert found[FIRST] == pytest.approx(truth[before], abs=0.02)
    assert found[1] == pytest.approx(truth[before + 1], abs=0.03)


def test_the_memory_predicts_zeros_and_knows_when_it_is_young(heights, rows):
    error = np.abs(rows[:-1, FIRST] - spacings_of(heights)[64:])
    assert np.median(error[-2000:]) < 0.002
    assert np.median(error[:200]) > 0.05


def test_longer_memory_is_better(heights):
    asked = np.arange(3000, len(heights) - 1)
    truth, levels = spacings_of(heights)[asked], level_of(heights)
    errors = []
    for time in (5.0, 20.0, 100.0):
        found = prime_rows(heights, levels, asked, row_config(time=time), phases="memory")
        errors.append(np.median(np.abs(found[:, FIRST] - truth)))
    assert errors[0] > 4 * errors[1] > 16 * errors[2]


def test_rows_hold_lags_and_level(heights, rows):
    levels = level_of(heights)
    lags = np.diff(heights) * levels[:-1] / TURN
    np.testing.assert_allclose(rows[100, -5:-1], lags[163:159:-1], rtol=1e-6)
    np.testing.assert_allclose(rows[:, -1], levels[64:], rtol=1e-6)
    assert rows.shape[1] == row_config().columns


def test_nothing_later_is_used(heights, rows):
    levels = level_of(heights)
    for k in (64, 100, 127, 128, 500):
        later = heights.copy()
        later[k + 1 :] += np.linspace(0.01, 5, len(heights) - k - 1)
        found = prime_rows(later, levels, np.arange(64, k + 1), row_config(), phases="memory")
        # the present block is shorter: its sums are the same numbers, added in other groups
        np.testing.assert_allclose(found, rows[: k - 63], rtol=1e-3, atol=1e-4)


def test_shifting_all_heights_at_fixed_level_changes_no_bit(heights):
    """Only differences of heights enter; heights on a grid of 2^-20 keep them exact."""
    coarse, levels = np.round(heights * 2**20) / 2**20, level_of(heights)
    asked = np.arange(64, 600)
    options = {"config": row_config(), "phases": "memory"}
    here = prime_rows(coarse, levels, asked, **options)
    np.testing.assert_array_equal(prime_rows(coarse + 12_345, levels, asked, **options), here)
    options["phases"] = "height"
    absolute = prime_rows(coarse, levels, asked, **options)
    assert np.abs(prime_rows(coarse + 12_345, levels, asked, **options) - absolute).max() > 0.1


def test_asking_for_some_rows_changes_none(heights, rows):
    asked = np.array([64, 70, 300, 301, 1999])
    some = prime_rows(heights, level_of(heights), asked, row_config(), phases="memory")
    np.testing.assert_allclose(some, rows[asked - 64], rtol=1e-3, atol=1e-4)


def test_rows_before_any_memory_are_refused(heights):
    with pytest.raises(ValueError, match="zero 63 has no renewal of the memory with 15 zeros"):
        prime_rows(heights, level_of(heights), np.array([63]), row_config(), phases="memory")


@pytest.mark.parametrize(
    ("key", "value"),
    [("limit", 1), ("time", 0.0), ("order", 0), ("order", 9), ("refresh", 0)],
)
def test_memory_mistakes_name_the_key(key, value):
    with pytest.raises(ConfigError, match=f"{key} must be"):
        row_config(**{key: value})


@pytest.mark.parametrize(("key", "value"), [("integers", 0), ("cut", 0.0), ("anchors", 1)])
def test_sum_mistakes_name_the_key(key, value):
    with pytest.raises(ConfigError, match=f"{key} must be"):
        SumConfig(**(ROWS["sum"] | {key: value}))


def test_config_round_trip():
    config = row_config()
    assert build(RowConfig, plain(config), where="rows") == config
    assert replace(config, lags=30).halo == 30
