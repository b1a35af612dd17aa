"""Stages of the prime arms: rows of a run's windows, readings on its test windows.

Legend: W windows, T targets of a window, X targets at full context, H horizon, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mneme.zeta.config import PredictConfig, RunConfig
from mneme.zeta.measure import ROLLOUT_CONTEXT, SOURCE_CONTEXT, mixture_scores
from mneme.zeta.prime_config import PrimesConfig, WindowPrimesConfig
from mneme.zeta.prime_fit import PrimeData, predict, prime_data, readable_windows
from mneme.zeta.prime_net import PrimeNet
from mneme.zeta.prime_rollout import prime_rollout
from mneme.zeta.prime_rows import Phases
from mneme.zeta.prime_window import window_data
from mneme.zeta.unfold import TURN, level_of
from mneme.zeta.windows import Arrays, placed, split_of


@dataclass(frozen=True, kw_only=True)
class PrimesStageConfig:
    """Rule `zeta_primes_fit`."""

    name: str
    """Name of the run."""
    run: RunConfig
    """Its settings."""
    primes: PrimesConfig | None
    """Memory, rows, head, training of arms `primes` and `oracle`."""
    primes_window: WindowPrimesConfig | None
    """The same of arm `primes_window`."""
    window: int
    """Spacings a window."""
    seeds: tuple[int, ...]
    """Training seeds."""

    @property
    def arm(self) -> PrimesConfig | WindowPrimesConfig:
        """Return the settings of the run's arm."""
        arm = self.primes_window if self.run.arm == "primes_window" else self.primes
        assert arm is not None, self.run.arm
        return arm


@dataclass(frozen=True, kw_only=True)
class PrimesMeasureConfig(PrimesStageConfig):
    """Rule `zeta_primes_measure`."""

    predict: PredictConfig
    """What is read."""


def carried(config: PrimesStageConfig) -> PrimesConfig:
    """Return the settings of an arm whose memory runs on across windows."""
    assert config.primes is not None, config.run.arm
    return config.primes


def sight(series: Arrays, run: RunConfig) -> tuple[NDArray[np.float64], Phases]:
    """Return what an arm sees of the height: rounded levels, or for `oracle` the height itself."""
    if run.arm == "oracle":
        return np.log(series["heights"] / TURN), "height"
    return level_of(series["heights"]), "memory"


def data_of(series: Arrays, windows: NDArray[np.int64], config: PrimesStageConfig) -> PrimeData:
    """Return rows and truths of some windows; the memory reads the series from its start."""
    levels, phases = sight(series, config.run)
    told = series["heights"], series["spacings"], levels
    if config.run.arm == "primes_window":
        assert config.primes_window is not None
        return window_data(*told, windows, config.primes_window.rows, window=config.window)
    rows = carried(config).rows
    readable = readable_windows(windows, config.window, rows)
    return prime_data(*told, readable, rows, window=config.window, phases=phases)


def training_data(series: Arrays, config: PrimesStageConfig) -> tuple[PrimeData, PrimeData]:
    """Return what trains and what selects, of the windows that a run's split gives."""
    split = split_of(series, config.run, config.window)
    return data_of(series, split.train, config), data_of(series, split.val, config)


def reopened(config: PrimesStageConfig, state: dict[str, torch.Tensor]) -> PrimeNet:
    """Return a trained head."""
    net = PrimeNet(config.arm.rows, config.arm.head, generator=torch.Generator())
    net.load_state_dict(state)
    return net.eval()


def read_primes(
    net: PrimeNet,
    series: Arrays,
    config: PrimesMeasureConfig,
    *,
    generator: torch.Generator,
) -> dict[str, NDArray]:
    """Read a head on the test windows of its run (table in `mneme.zeta.measure`).

    The memory of `primes` reaches beyond the window, so its `full` arrays are those of the window;
    those of `primes_window` are its last targets.
    """
    window = config.window
    split = split_of(series, config.run, window)
    data = data_of(series, split.test, config)
    mixture = predict(net, data.rows_WTF)
    log_weights, means, scales = (part.double().numpy() for part in mixture)
    scores = mixture_scores(log_weights, means, scales, data.truth_WT)
    levels, phases = sight(series, config.run)
    since = window - 1 - config.predict.full_stride if config.run.arm == "primes_window" else 0
    horizon, samples = config.predict.horizon, config.predict.samples

    def rolled(context: int, horizon: int, samples: int | None) -> NDArray[np.float32]:
        return prime_rollout(
            net,
            series["heights"],
            levels,
            split.test * window + context,
            carried(config).rows,
            horizon=horizon,
            phases=phases,
            samples=samples,
            generator=None if samples is None else generator,
        )

    test_WN = series["spacings"][split.test[:, None] * window + np.arange(window)]
    found = {
        **placed(series, split, window),
        "spacings_WN": test_WN.astype(np.float32),
        **{f"{name}_WT": values for name, values in scores.items()},
        **{f"{name}_full_WX": scores[name][:, since:] for name in ("nll", "crps", "abs_error")},
    }
    if config.run.arm == "primes_window":  # its windows are read whole: no rollout is built
        return found
    return {
        **found,
        "rollout_mean_WH": rolled(ROLLOUT_CONTEXT, horizon, None),
        "rollout10_WH": rolled(SOURCE_CONTEXT, SOURCE_CONTEXT, None),
        "sampled_SWH": rolled(ROLLOUT_CONTEXT, horizon, samples),
    }
