"""Headline files of `hysteresis` and `fatigue` that hold what theirs must hold."""

from __future__ import annotations

CONTROLS = ["token", "ema_oracle", "ema", "untrained", "shuffled_labels", "probe"]
CONTROLS += ["aa", "bab", "blocked", "reset", "shuffled_b"]
EVERY = {
    "hysteresis": "switch_lag_BA relax_time_0.99 return_gap_cosine",
    "fatigue": "switch_lag@16 tail_area_32@16 switch_lag.per_doubling tail_area_32.per_doubling",
}
OF_OURS = {
    "hysteresis": "switch_lag_AB switch_lag_BA_minus_aa return_gap_cosine_minus_aa mix_entropy "
    "return_gap_euclidean return_gap_dtw switching_asymmetry_signed mix_balance",
    "fatigue": "deep_crystallization_ratio@16 deep_crystallization_ratio.per_doubling "
    "avg_weight@16 switch_lag_minus_aa.per_doubling",
}


def row(metric, value, **further):
    frame = dict.fromkeys(("low", "high", "n", "seed", "control_of", "reason"))
    return {"metric": metric, "value": value, "unit": "tokens", **frame, **further}


def headline(phase, runs, *, code="a" * 16, device="cpu", seconds=1.5, **provenance):
    facts = {
        "device": device,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "inputs": {"results/tokens.npz": "d" * 16},
        "backbone": {"key": "tiny", "name": "a/b", "revision": None},
    }
    return {
        "phase": phase,
        "code": code,
        "config": {"x": 1},
        "provenance": {**facts, "peak_memory_mb": 100.0, **provenance},
        "seconds": seconds,
        "runs": runs,
        "published": {
            "mistral_7b_fast": {"test_aba.switch_lag_BA": 9, "tail_area_32": [2.846, 5.541]},
            "gpt2": {"correlations.deep_crystallization": 0.7381},
        },
    }


def whole(phase, runs):
    """Add the runs and rows that every file of the phase has."""
    for name in ("ours", *CONTROLS):
        rows = runs.setdefault(name, {"rows": []})["rows"]
        known = {r["metric"] for r in rows}
        wanted = f"{EVERY[phase]} {OF_OURS[phase] if name == 'ours' else ''}".split()
        rows += [row(metric, 1.0) for metric in wanted if metric not in known]
    return runs
