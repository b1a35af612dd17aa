"""Readings of one run on one set of test documents -> one number a group for every metric.

Readings are a mapping of arrays, one a seed, keys `<set>/<name>`:

============ ======= ==============================================================================
name         shape   meaning
============ ======= ==============================================================================
nll_NT       (N, T)  loss of token t + 1 given tokens 0..t, nats; 0 beyond the document's end
targets_N    (N,)    predicted tokens of each document
group_N      (N,)    play or conversation that it is part of
document_N   (N,)    checksum of its tokens: runs are compared on equal documents only
frozen_NT    (N, T)  the same with updates off; of meta-trained arms
kept_M       (M,)    documents long enough for the contexts below
loss_<k>_M   (M,)    mean loss of the counted tokens after context k was read with updates (`none`:
                     nothing was), attention seeing the same own tokens in every case
long_X       (X,)    documents long enough for all lengths of context
length_XL    (X, L)  mean loss of the last tokens when reading began L tokens before them
ideal_all_NT (N, T)  loss of the ideal learner; on documents with a known one, as are both below
ideal_far_NT (N, T)  of the one that sees only a receptive field
entropy_N    (N,)    entropy rate of each document's law, nats
============ ======= ==============================================================================

A group's number is the mean over its documents. Inside and beyond the receptive field R are targets
with at most R + 1 tokens seen, and with more: attention through all blocks reaches R tokens back.

Legend: N documents, T targets, M kept documents, X long documents, L lengths of context,
D documents with a metric, S seeds, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.ttt.config import Arm
from mneme.ttt.context_config import SetConfig
from mneme.ttt.contexts import KINDS

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Arrays = Mapping[str, NDArray]
Chosen = dict[str, tuple[Integers, Floats]]
"""Metric -> documents that have it (D,), and its value for each (D,)."""
IDEALS = ("ideal_all", "ideal_far")


@dataclass(frozen=True, kw_only=True)
class MeasuredRun:
    """One arm's readings under every seed."""

    arm: Arm
    """Which arm."""
    recipe: str
    """Runs of one recipe are compared: they share corpus, sizes, tokens and steps."""
    corpus: str
    """What it was trained on."""
    receptive_field: int
    """Tokens R that a sliding window can reach back through all blocks."""
    trained_tokens: int
    """Predicted tokens of a training sequence: full attention is outside its training after."""
    seeds: tuple[int, ...]
    """Training seeds."""
    readings: tuple[Arrays, ...]
    """Arrays under each seed, as in the module's table."""
    steps_factor: float
    """Its training steps as a multiple of the recipe's."""
    tried: int
    """Configurations of its recipe, and of its arm, that were tried."""
    control_of: str | None
    """Run that it is a control of."""
    further: Mapping[str, Any]
    """JSON-ready keys to keep beside the rows: parameters, tokens, seconds, what was chosen."""

    def __post_init__(self) -> None:
        assert len(self.seeds) == len(self.readings) >= 1

    def of_set(self, name: str) -> list[dict[str, NDArray]]:
        """Return the arrays of one set under each seed.

        Raises
        ------
        ValueError
            When the set was not read, or seeds were read on different documents.
        """
        parts = [
            {k.partition("/")[2]: a for k, a in arrays.items() if k.startswith(f"{name}/")}
            for arrays in self.readings
        ]
        for arrays in parts:
            if "nll_NT" not in arrays:
                raise ValueError(f"the readings lack the set {name!r}: measure the run again")
            if not np.array_equal(arrays["document_N"], parts[0]["document_N"]):
                raise ValueError(
                    f"seeds were read on different documents of {name!r}: measure again"
                )
        return parts


@dataclass(frozen=True, kw_only=True)
class Values:
    """One metric of one run, a number a group."""

    values_SG: Floats
    """Under every seed."""
    groups_G: Integers
    """Which groups, ascending."""
    documents: int
    """Documents behind them."""

    def scaled(self, factor: float) -> Values:
        """Return the same in another unit."""
        scaled = self.values_SG * factor
        return Values(values_SG=scaled, groups_G=self.groups_G, documents=self.documents)


def run_metrics(
    run: MeasuredRun, name: str, one: SetConfig, *, bytes_per_token: float | None
) -> dict[str, Values]:
    """Reduce the readings of one run on one set.

    Parameters
    ----------
    run, name, one : MeasuredRun, str, SetConfig
        The run; the set's name and settings.
    bytes_per_token : float, optional
        Mean bytes of a token, > 0, for text: gives bits per byte.

    Returns
    -------
    dict
        Metric -> Values; what no document is long enough for is absent. `nll`; `nll_inside`,
        `nll_beyond`, `beyond_minus_inside`; `part_inside` + `part_beyond` = `nll`; `nll_trained`
        and `nll_beyond_trained` up to the length of training; `nll_position@a-b` (tokens seen);
        `nll_length@L`, `nll_length_gain@L` (less the shortest); `nll_frozen`,
        `nll_beyond_frozen` (updates off), `updates_inside`, `updates_beyond` (updates on less
        off); `counted_<kind>`, `counted` (as the arm is used: own context where it
        adapts), `own_minus_<kind>`, `harm` (other - none); `bits_per_byte`, `bits_per_byte_beyond`.

    Raises
    ------
    ValueError
        As in `MeasuredRun.of_set`.
    """
    seeds = run.of_set(name)
    field, trained = run.receptive_field, run.trained_tokens
    told = [
        document_metrics(arrays, one, field) | up_to(arrays, field, trained) for arrays in seeds
    ]
    group_N = seeds[0]["group_N"]
    metrics = {
        metric: grouped(np.stack([seed[metric][1] for seed in told]), group_N[kept_D])
        for metric, (kept_D, _) in told[0].items()
    }
    if bytes_per_token is not None:
        for metric in [m for m in ("nll", "nll_beyond") if m in metrics]:
            bits = metrics[metric].scaled(1 / (math.log(2) * bytes_per_token))
            metrics[metric.replace("nll", "bits_per_byte")] = bits
    return metrics


def document_metrics(arrays: Arrays, one: SetConfig, receptive_field: int) -> Chosen:
    """Reduce the readings of one run, seed and set to a number a document, as in `run_metrics`."""
    nll_NT = np.asarray(arrays["nll_NT"], float)
    targets_N = np.asarray(arrays["targets_N"], np.int64)
    found = by_position(nll_NT, targets_N, one.bins)
    found |= inside_and_beyond(nll_NT, targets_N, receptive_field)
    found["beyond_minus_inside"] = _difference(found["nll_beyond"], found["nll_inside"])
    if "frozen_NT" in arrays:
        frozen_NT = np.asarray(arrays["frozen_NT"], float)
        still = inside_and_beyond(frozen_NT, targets_N, receptive_field)
        found |= {f"{metric}_frozen": still[metric] for metric in ("nll", "nll_beyond")}
        for part in ("inside", "beyond"):
            found[f"updates_{part}"] = _difference(found[f"nll_{part}"], still[f"nll_{part}"])
    if "length_XL" in arrays:
        found |= _lengths(arrays, one)
    found |= _contexts(arrays)
    return {metric: told for metric, told in found.items() if len(told[0])}


def up_to(arrays: Arrays, receptive_field: int, trained_tokens: int) -> Chosen:
    """Average each document over the targets that training had: with so many tokens seen at most.

    Returns
    -------
    dict
        `nll_trained`; `nll_beyond_trained` of those with more than R + 1 tokens seen.
    """
    nll_NT = np.asarray(arrays["nll_NT"], float)[:, :trained_tokens]
    targets_N = np.minimum(arrays["targets_N"], trained_tokens)
    cut = inside_and_beyond(nll_NT, targets_N, receptive_field)
    found = {"nll_trained": cut["nll"], "nll_beyond_trained": cut["nll_beyond"]}
    return {metric: told for metric, told in found.items() if len(told[0])}


def _difference(
    ours: tuple[Integers, Floats], theirs: tuple[Integers, Floats]
) -> tuple[Integers, Floats]:
    """Return ours - theirs on the documents that have both, ours among theirs."""
    place_D = np.searchsorted(theirs[0], ours[0])
    return ours[0], ours[1] - theirs[1][place_D]


def _lengths(arrays: Arrays, one: SetConfig) -> Chosen:
    """Return the loss after every length of context, and less that after the shortest."""
    values_XL, long_X = np.asarray(arrays["length_XL"], float), arrays["long_X"]
    columns = list(zip(one.contexts, values_XL.T, strict=True))
    found = {f"nll_length@{length}": (long_X, values_X) for length, values_X in columns}
    gained = {f"nll_length_gain@{length}": v - columns[0][1] for length, v in columns[1:]}
    return found | {metric: (long_X, values_X) for metric, values_X in gained.items()}


def by_position(
    nll_NT: Floats, targets_N: Integers, bins: Sequence[tuple[str, int, int]]
) -> Chosen:
    """Average each document over bins of tokens seen, where it reaches the bin's end.

    Of conversations, later bins hold the longer ones only: compare arms in a bin, not bins.

    Parameters
    ----------
    nll_NT : array (N, T)
        Target t has t + 1 tokens before it.
    targets_N : int array (N,)
        Targets of each document.
    bins : sequence of (str, int, int)
        Name, first and last number of tokens seen.

    Returns
    -------
    dict
        `nll_position@<name>` -> documents, values.
    """
    found = {}
    for name, first, last in bins:
        kept_D = np.flatnonzero(targets_N >= last)
        values_D = nll_NT[kept_D, first - 1 : last].mean(axis=1) if len(kept_D) else np.zeros(0)
        found[f"nll_position@{name}"] = (kept_D, values_D)
    return found


def inside_and_beyond(nll_NT: Floats, targets_N: Integers, receptive_field: int) -> Chosen:
    """Split the mean loss of each document at the receptive field.

    Returns
    -------
    dict
        `nll` of all targets; `nll_inside`, `nll_beyond` of those with at most R + 1 tokens seen and
        those with more (only documents that long); `part_inside`, `part_beyond`: their sums over
        all targets of the document, which add up to `nll`.
    """
    place_T = np.arange(nll_NT.shape[1])
    real_NT = place_T < targets_N[:, None]
    near_NT = real_NT & (place_T <= receptive_field)
    everyone = np.arange(len(nll_NT))
    inside_N, all_N = ((nll_NT * mask).sum(axis=1) for mask in (near_NT, real_NT))
    near_N = near_NT.sum(axis=1)
    far_D = np.flatnonzero(targets_N > near_N)
    beyond_D = (all_N - inside_N)[far_D] / (targets_N - near_N)[far_D]
    return {
        "nll": (everyone, all_N / targets_N),
        "nll_inside": (everyone, inside_N / near_N),
        "nll_beyond": (far_D, beyond_D),
        "part_inside": (everyone, inside_N / targets_N),
        "part_beyond": (everyone, (all_N - inside_N) / targets_N),
    }


def _contexts(arrays: Arrays) -> Chosen:
    """Compare the contexts that were read with updates."""
    loss = {
        kind: np.asarray(arrays[f"loss_{kind}_M"], float)
        for kind in KINDS
        if f"loss_{kind}_M" in arrays
    }
    if not loss:
        return {}
    kept_M = arrays["kept_M"]
    found = {f"counted_{kind}": (kept_M, values_M) for kind, values_M in loss.items()}
    found["counted"] = (kept_M, loss.get("own", loss["none"]))
    if "own" in loss:
        others = [kind for kind in loss if kind != "own"]
        found |= {f"own_minus_{kind}": (kept_M, loss["own"] - loss[kind]) for kind in others}
    if "other" in loss:
        found["harm"] = (kept_M, loss["other"] - loss["none"])
    return found


def grouped(values_SD: Floats, group_D: Integers) -> Values:
    """Average documents of a group."""
    groups_G, place_D, count_G = np.unique(group_D, return_inverse=True, return_counts=True)
    member_DG = (place_D[:, None] == np.arange(len(groups_G))) / count_G
    return Values(values_SG=values_SD @ member_DG, groups_G=groups_G, documents=len(group_D))
