"""Rows of `results/mdn.json` beside those of the test windows: transfer, configurations tried.

Metrics: `nll_transfer@<block>`, `mae_transfer@<block>` (window averages on a block of zeros
elsewhere, `mneme.zeta.transfer`) and `configurations_tried`.

Legend: W windows, S seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.stats.blocks import block_mean, crossed_block_mean
from mneme.stats.rows import Row, row_of
from mneme.stats.tried import tried_row
from mneme.zeta.stages import MdnStageConfig
from mneme.zeta.unfold import TURN

Blocks = Mapping[str, Mapping[str, Any]]
UNITS = {"nll": "nats", "mae": "mean spacings"}
BEGINS = "memories begin with the block: nothing before its first zero is read"


def with_beside(
    blocks: Blocks, readings: Mapping[str, NDArray], config: MdnStageConfig
) -> dict[str, dict[str, Any]]:
    """Return the blocks of `mdn_runs` with further rows.

    Parameters
    ----------
    blocks : mapping
        Run or reference -> its block.
    readings : mapping
        What `transfer_readings` returned.
    config : MdnStageConfig
        Runs, counts, bootstrap, training seeds.

    Returns
    -------
    dict
        Trained runs have `configurations_tried`; those read elsewhere have `transfer` besides:
        block of zeros -> `first_height`, `last_height`, `windows`, `inside_training`,
        `resolution` (mean spacings to which heights of float64 tell a spacing there),
        `information`.
    """
    out = {}
    for name, block in blocks.items():
        rows = list(block["rows"])
        added, run = [*_transfer_rows(name, readings, config)], config.runs.get(name)
        if run is not None:
            added.append(tried_row(config.tried.behind(run.arm), control_of=run.control_of))
        walks = f" (here {config.transfer.walk})" if name.endswith("_walk") else ""
        told = facts_of(name, readings, block["information"] + walks)
        beside = {"transfer": told} if told else {}
        out[name] = {**block, "rows": rows + [row.as_dict() for row in added], **beside}
    return out


def facts_of(
    name: str, readings: Mapping[str, NDArray], information: str
) -> dict[str, dict[str, Any]]:
    """Return block -> where a run was read and what it may use there."""
    found = {}
    for block in blocks_of(readings, name):
        low, high = (float(end) for end in readings[f"{block}/ends"])
        below, above = (float(end) for end in readings["trained"])
        density = np.log(high / TURN) / TURN
        found[block] = {
            "first_height": low,
            "last_height": high,
            "windows": len(readings[f"{block}/heights"]),
            "inside_training": bool(below <= low and high <= above),
            "resolution": float(2 * np.spacing(high) * density),
            "information": f"{information}; {BEGINS}",
        }
    return found


def blocks_of(readings: Mapping[str, NDArray], name: str) -> list[str]:
    """Return the blocks on which a run was read."""
    found = [key.split("/")[0] for key in readings if key.endswith("/nll")]
    return [b for b in dict.fromkeys(found) if f"{b}/{name}/nll" in readings]


def _transfer_rows(
    name: str, readings: Mapping[str, NDArray], config: MdnStageConfig
) -> Iterator[Row]:
    """Yield the mean of every metric on every block, with seeds where the run has them."""
    for block in blocks_of(readings, name):
        for metric, unit in UNITS.items():
            values_SW = readings[f"{block}/{name}/{metric}"]
            title = f"{metric}_transfer@{block}"
            chance = {**config.mdn.chance(title), "block": config.transfer.block}
            if name in config.runs:
                crossed = crossed_block_mean(values_SW, **chance)
                yield from crossed.rows(title, unit=unit, seeds=config.seeds, control_of=None)
            else:
                interval = block_mean(values_SW[0], **chance)
                yield row_of(title, interval, n=values_SW.shape[1], unit=unit, control_of=None)
