"""Table of room `lattice`: every teacher's embedding in one line, what it gives raw and trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mneme.report.html_text import DASH, interval, number

COLUMNS = {
    "raw": ("raw", "mrr"),
    "standardised": ("standardised", "mrr"),
    "best PCA": ("pca_whitened", "mrr"),
    "adapter": ("adapter", "mrr"),
    "less best PCA": ("adapter", "mrr_minus_pca_whitened"),
    "lattice less adapter": ("lattice", "mrr_minus_adapter"),
    "rank kept": ("adapter", "effective_rank_share"),
    "permuted answers": ("permuted", "mrr"),
}
"""Head of a column -> arm or baseline, metric (MRR, but for the share of PCA's effective rank)."""


def teacher_table(headline: Mapping[str, Any]) -> dict[str, Any] | None:
    """Lay out every teacher with its embedding's width and the MRR of what stands behind it.

    Parameters
    ----------
    headline : mapping
        `results/lattice.json`.

    Returns
    -------
    dict or None
        `heads` (columns after the first) and `rows`, pairs of a teacher and its cells; None where
        no teacher was read.
    """
    runs = {(b.get("teacher"), b.get("arm")): b for b in headline["runs"].values()}
    rows = []
    for teacher in sorted(teacher for teacher, arm in runs if teacher and arm == "raw"):
        of = {arm: block for (other, arm), block in runs.items() if other == teacher}
        cells = [_cell(of.get(arm), metric) for arm, metric in COLUMNS.values()]
        asked = number(of["raw"]["questions"])
        rows.append((teacher, [number(of["raw"]["width"]), asked, *cells]))
    return {"heads": ["numbers", "questions", *COLUMNS], "rows": rows} if rows else None


def _cell(block: Mapping[str, Any] | None, metric: str) -> str:
    rows = [] if block is None else block["rows"]
    found = [row for row in rows if row["metric"] == metric and row["seed"] is None]
    if not found or found[0]["value"] is None:
        return DASH
    row = found[0]
    return interval(row["value"], row["low"], row["high"])
