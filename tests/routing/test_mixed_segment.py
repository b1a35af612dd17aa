"""A mixed segment ends in B, so that what follows it is a switch into A: held to the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from planted import own_works

from mneme.core.config import ConfigError, build
from mneme.core.seeds import torch_generator
from mneme.core.workflow import merge
from mneme.report.claims_config import EffectConfig
from mneme.report.claims_measured import Measured
from mneme.routing.config import MixerConfig, ProtocolConfig, RunConfig
from mneme.routing.contexts import CONTEXTS_OF_EVERY_MIXER, FURTHER_CONTEXTS
from mneme.routing.ema_lag import ema_lag, ema_weight
from mneme.routing.hysteresis import hysteresis
from mneme.routing.measure import return_gap
from mneme.routing.mixer import build_mixer
from mneme.routing.sequences import hysteresis_families, mixed_pattern
from mneme.stats.rows import Row

ROOT, TEXTS = Path(__file__).parents[2], 4
SIZES = ("default", "smoke", "fast", "long", "gpu")


def read(size):
    return yaml.safe_load((ROOT / f"config/{size}.yaml").read_text(encoding="utf-8"))


def protocol_of(size="default", **changes) -> ProtocolConfig:
    routing = read("config")["routing"]
    if size != "default":
        routing = merge(routing, read(size).get("routing", {}))
    settings = {**routing["protocol"], "resamples": 100, **changes}
    return build(ProtocolConfig, settings, where="protocol")


def oracle_of(domains):
    given = read("config")["routing"]["mixers"]["ema_oracle"]
    config = build(MixerConfig, given, where="mixer")
    generator = torch_generator(0, "mixer")
    return config, build_mixer(config, domains=domains, width=1, vocab=2, generator=generator)


def families_of(protocol, pair):
    """Token ids that are the domain each of them is of."""
    (a, b), size = pair, protocol.segment_tokens
    shapes = {"a1": a, "a2": a, "b1": b, "b2": b, "a_long": a, "a_other_long": a, "b_long": b}
    tuples = {name: np.full((TEXTS, size), domain) for name, domain in shapes.items()}
    return hysteresis_families(tuples, protocol, domains=pair, seed=0)


def oracle_rows(protocol, *, domains=2, pair=(0, 1)):
    """Rows of the oracle under `hysteresis`, from its own gates on the families' labels."""
    _, mixer = oracle_of(domains)
    trace, wanted = {}, (*CONTEXTS_OF_EVERY_MIXER, *FURTHER_CONTEXTS["hysteresis"])
    for context, family in families_of(protocol, pair).items():
        if context not in wanted:
            continue
        ids = np.concatenate([family.first, family.middle, family.last], axis=1)
        labels = torch.as_tensor(ids, dtype=torch.long)
        with torch.inference_mode():
            logits, _ = mixer(labels, torch.zeros(*labels.shape, 1), labels_BT=labels)
        weights = torch.softmax(logits, -1).numpy()[None]
        trace[f"ema_oracle/{context}/{protocol.segment_tokens}"] = weights
    runs = {"ema_oracle": RunConfig(mixer="ema_oracle", context="real", control_of=None)}
    trace |= own_works(TEXTS)
    blocks = hysteresis(trace, runs, protocol, pair=pair, seeds=(0,))
    return {row["metric"]: row for row in blocks["ema_oracle"]["rows"] if row["seed"] is None}


def stays_of(protocol):
    """Lengths of the stays before the last segment, from the pattern itself."""
    from_b = mixed_pattern(protocol.segment_tokens, piece=protocol.mix_piece_tokens)
    is_b = np.concatenate([np.zeros(protocol.segment_tokens, bool), from_b])
    switches = np.flatnonzero(np.diff(is_b)) + 1
    return np.diff([0, *switches, len(is_b)]).tolist()


@pytest.mark.parametrize("size", SIZES)
def test_in_every_size_the_last_piece_before_the_boundary_is_of_b_and_whole(size):
    protocol = protocol_of(size)
    piece = protocol.mix_piece_tokens
    family = families_of(protocol, (0, 1))["mixed"]
    assert (family.middle_domains[-piece:] == 1).all()
    assert (family.middle_domains[-2 * piece : -piece] == 0).all()
    np.testing.assert_array_equal(family.middle, np.tile(family.middle_domains, (TEXTS, 1)))


@pytest.mark.parametrize(("tokens", "piece"), [(64, 8), (40, 8), (40, 7), (33, 16), (32, 1)])
def test_pieces_are_counted_from_the_end(tokens, piece):
    from_b = mixed_pattern(tokens, piece=piece).tolist()
    slow = []
    while len(slow) < tokens:
        is_b = len(slow) // piece % 2 == 0
        slow.insert(0, is_b)
    assert from_b == slow
    assert from_b[-1]
    assert not all(from_b)


def test_a_mix_of_several_domains_holds_the_pair_and_ends_in_b():
    domains = families_of(protocol_of(), (2, 0))["mixed"].middle_domains
    assert set(domains.tolist()) == {0, 2}
    assert (domains[-8:] == 0).all()


@pytest.mark.parametrize("piece", [0, 33, 64])
def test_a_piece_longer_than_half_the_segment_is_refused(piece):
    with pytest.raises(ConfigError, match=r"mix_piece_tokens must be 1\.\.32, half of segment"):
        protocol_of(mix_piece_tokens=piece)
    protocol_of(mix_piece_tokens=32)


@pytest.mark.parametrize(("domains", "pair"), [(2, (0, 1)), (3, (2, 0))])
@pytest.mark.parametrize("size", ["default", "smoke"])
def test_the_oracle_s_lag_after_a_mix_is_its_closed_form(size, domains, pair):
    protocol = protocol_of(size)
    config, _ = oracle_of(domains)
    gate = {"decay": config.decay, "oracle_logit": config.oracle_logit, "domains": domains}
    rows, segment = oracle_rows(protocol, domains=domains, pair=pair), protocol.segment_tokens
    before = {"switch_lag_mixA": stays_of(protocol), "switch_lag_BA": [segment, segment]}
    found = {}
    for metric, stays in before.items():
        for theta in protocol.thresholds:
            expected = ema_lag(threshold=theta, stays=stays, **gate)
            assert rows[f"{metric}@{theta:g}"]["value"] == expected
        found[metric] = ema_lag(threshold=protocol.threshold, stays=stays, **gate)
        assert rows[metric]["value"] == rows[f"{metric}_minus_aa"]["value"] == found[metric]
    # By hand for K = 2: z at the boundary is about -L (1 - a^8) / (1 + a^8), so a^(i + 1) <= .519.
    assert found == {"switch_lag_mixA": 6, "switch_lag_BA": 9}
    assert rows["switch_lag_mixA_minus_clean"]["value"] == -3


def test_the_oracle_s_gap_after_a_mix_is_its_closed_form_and_below_that_of_a_clean_switch():
    protocol = protocol_of()
    config, _ = oracle_of(2)
    token, segment = np.arange(protocol.gap_tokens), protocol.segment_tokens
    gate = {"decay": config.decay, "oracle_logit": config.oracle_logit, "domains": 2}
    rows = oracle_rows(protocol)
    # Never left: the logit of A is L (1 - a^t) after t tokens from the cold start.
    z = config.oracle_logit * (1 - config.decay ** (2 * segment + token + 1))
    never_left = 1 / (1 + np.exp(-2 * z))
    gap = {}
    for name, stays in (("clean", [segment, segment]), ("mixed", stays_of(protocol))):
        back = ema_weight(token, stays=stays, **gate)
        pair = [np.stack([w, 1 - w], axis=-1) for w in (never_left, back)]
        gap[name] = return_gap(*pair, domain=0)["cosine"].item()
    expected = {
        "return_gap_mixed_cosine": gap["mixed"],
        "return_gap_mixed_cosine_minus_aa": gap["mixed"],
        "return_gap_cosine_minus_aa": gap["clean"],
        "return_gap_mixed_cosine_minus_clean": gap["mixed"] - gap["clean"],
    }
    found = {metric: rows[metric]["value"] for metric in expected}
    assert found == pytest.approx(expected, abs=1e-6)
    assert found["return_gap_mixed_cosine"] > 0.05
    assert found["return_gap_mixed_cosine_minus_clean"] < -0.05


def test_every_positive_control_of_the_ledger_that_the_oracle_must_show_it_shows():
    rows = oracle_rows(protocol_of())
    claims = yaml.safe_load((ROOT / "config/claims.yaml").read_text(encoding="utf-8"))
    asked = [
        build(EffectConfig, effect, where="claims")
        for claim in claims["claims"].values()
        for effect in claim["positives"]
        if (effect["phase"], effect["run"]) == ("hysteresis", "ema_oracle")
    ]
    assert asked
    for effect in asked:
        row = Row(**{**rows[effect.metric], "n": TEXTS})
        assert Measured(effect=effect, row=row, seeds=(), undefined=None).shows, effect.metric
