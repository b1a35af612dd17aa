"""Calibration: known answers, slow oracles, planted domains, controls, errors, scripts."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from namelist import Namelist

from mneme.core.artefacts import read_json, read_tensors, write_tensors
from mneme.core.config import plain
from mneme.core.seeds import torch_generator
from mneme.routing.calibrate import calibrate
from mneme.routing.chunks import limited, read_chunks, shuffle_labels
from mneme.routing.config import CalibrationConfig, MixerConfig
from mneme.routing.contrast import pool, supervised_contrast
from mneme.routing.mixer_files import load_mixers
from mneme.routing.mixer_report import MixerReportConfig, mixer_report
from mneme.routing.sharing import chunk_works

CPU = torch.device("cpu")
SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"
TRAINED = ("gating", "attention", "ema", "token", "probe")
SETTINGS = CalibrationConfig(
    batch=16,
    learning_rates=(3e-3, 1e-2),
    recency=1.0,
    contrast_weight=0.1,
    contrast_temperature=0.1,
)


def config_of(strategy="gating", **changes):
    values = {
        "strategy": strategy,
        "hidden": 16,
        "decay": 0.8,
        "oracle_logit": 4.0,
        "epochs": 10,
        "labels": "true",
        "init": "fresh",
    }
    return MixerConfig(**{**values, **changes})


def planted(*, domains=2, chunks=48, tokens=24, width=12, distance=8.0, seed=0):
    """Gaussian states `distance` standard deviations apart, and ids of disjoint vocabularies."""
    generator = torch_generator(seed, "planted")
    data = {"vocab": torch.tensor(20 * domains)}
    for k in range(domains):
        centre = torch.zeros(width)
        centre[k] = distance
        for part, n in (("calibration", chunks), ("validation", 24), ("test", 24)):
            noise = torch.randn(n, tokens, width, generator=generator)
            data[f"d{k}.{part}"] = noise + centre
            ids = torch.randint(20, (n, tokens), generator=generator) + 20 * k
            data[f"d{k}.{part}.ids"] = ids
    return data


def run(data, config, *, seed=0, calibration=SETTINGS, start=None):
    domains = sorted({key.split(".")[0] for key in data} - {"vocab"})
    return calibrate(
        data,
        config,
        calibration,
        domains=domains,
        generator=torch_generator(seed, "mixer"),
        device=CPU,
        start=start,
    )


# --- pooling and contrast: known answers and slow loops


def test_pooling_known_answers():
    x = torch.tensor([[[1.0], [3.0]]])
    assert pool(x, recency=0.0).item() == pytest.approx(2.0)
    late = math.exp(2.0 * 0.5)  # i / T = 0 and 1/2
    assert pool(x, recency=2.0).item() == pytest.approx((1 + 3 * late) / (1 + late))


@settings(max_examples=15, deadline=None)
@given(length=st.integers(1, 40), recency=st.floats(-5, 5), seed=st.integers(0, 99))
def test_pooling_equals_a_loop(length, recency, seed):
    x = torch.randn(2, length, 3, generator=torch_generator(seed, "pool"))
    weights = [math.exp(recency * i / length) for i in range(length)]
    expected = sum(w * x[:, i] for i, w in enumerate(weights)) / sum(weights)
    torch.testing.assert_close(pool(x, recency=recency), expected, atol=1e-5, rtol=0)


def test_contrast_known_answers():
    same = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    # Each anchor: its positive at cosine 1, two negatives at cosine 0, tau = 1.
    expected = math.log(math.e + 2) - 1
    assert supervised_contrast(same, labels, temperature=1.0).item() == pytest.approx(expected)
    # All alike: every other example equally likely, whatever the labels and tau.
    alike = torch.ones(5, 3)
    loss = supervised_contrast(alike, torch.tensor([0, 0, 1, 1, 1]), temperature=0.1)
    assert loss.item() == pytest.approx(math.log(4), rel=1e-5)


def test_contrast_without_a_pair_is_zero():
    x = torch.randn(3, 4, generator=torch_generator(0, "x"))
    assert supervised_contrast(x, torch.tensor([0, 1, 2]), temperature=0.5).item() == 0.0


def contrast_by_loop(x, labels, temperature):
    z = [row / row.norm() for row in x.double()]
    terms = []
    for i in range(len(z)):
        positives = [p for p in range(len(z)) if p != i and labels[p] == labels[i]]
        if not positives:
            continue
        total = sum(math.exp(float(z[i] @ z[a]) / temperature) for a in range(len(z)) if a != i)
        logs = [float(z[i] @ z[p]) / temperature - math.log(total) for p in positives]
        terms.append(-sum(logs) / len(positives))
    return sum(terms) / len(terms)


@settings(max_examples=15, deadline=None)
@given(count=st.integers(4, 12), tau=st.floats(0.1, 2.0), seed=st.integers(0, 99))
def test_contrast_equals_a_loop_and_has_a_finite_gradient(count, tau, seed):
    generator = torch_generator(seed, "contrast")
    x = torch.randn(count, 5, generator=generator, requires_grad=True)
    labels = torch.randint(3, (count,), generator=generator)  # 4 of 3 labels: a pair exists
    loss = supervised_contrast(x, labels, temperature=tau)
    assert loss.item() == pytest.approx(contrast_by_loop(x.detach(), labels, tau), rel=1e-4)
    loss.backward()
    assert torch.isfinite(x.grad).all()


# --- planted domains are found, noise is not


@pytest.mark.parametrize("strategy", TRAINED)
def test_planted_domains_are_learnt(strategy):
    data = planted()
    untrained = run(data, config_of(strategy, epochs=0))
    result = run(data, config_of(strategy))
    assert result.test.token > 0.99
    assert result.test.chunk == 1.0
    assert result.validation_nll < 0.3 < untrained.validation_nll
    assert result.test == result.test_domains
    assert result.domains == (0,) * 24 + (1,) * 24


def test_three_planted_domains_are_learnt():
    result = run(planted(domains=3), config_of("gating"))
    assert result.test.token > 0.99
    assert len(result.test.tokens) == 72


@pytest.mark.parametrize("strategy", TRAINED)
def test_shuffled_labels_stay_at_chance(strategy):
    data = planted()
    results = [run(data, config_of(strategy, labels="shuffled"), seed=s) for s in range(4)]
    # 4 x 48 chunks of the run's own labels: standard error of chunk accuracy .036.
    chunk = sum(r.test.chunk for r in results) / 4
    true = sum(r.test_domains.token for r in results) / 4
    assert 0.35 < chunk < 0.65
    assert 0.25 < true < 0.75
    assert all(r.validation_nll > math.log(2) - 0.02 for r in results)


def test_nothing_is_found_where_domains_do_not_differ():
    result = run(planted(distance=0.0), config_of("gating"))
    assert 0.4 < result.test.token < 0.6


@pytest.mark.parametrize("sizes", [(48, 48), (7, 8, 10)])
def test_shuffled_labels_are_dealt_evenly_over_every_domain(sizes):
    data = {}
    for k, n in enumerate(sizes):
        data |= {f"d{k}.test": torch.zeros(n, 2, 1), f"d{k}.test.ids": torch.zeros(n, 2).long()}
    names = [f"d{k}" for k in range(len(sizes))]
    chunks = read_chunks(data, names, "test", device=CPU)
    shuffled = shuffle_labels(chunks, generator=torch_generator(0, "shuffle"))
    other = shuffle_labels(chunks, generator=torch_generator(1, "shuffle"))
    assert torch.equal(shuffled.domains, chunks.domains)
    assert not torch.equal(shuffled.labels, other.labels)
    for k in range(len(sizes)):
        counts = torch.bincount(shuffled.labels[chunks.domains == k], minlength=len(sizes))
        assert counts.max() - counts.min() <= 1


def test_oracle_has_nothing_to_train_and_is_right_by_construction():
    result = run(planted(), config_of("ema_oracle"))
    assert result.history == []
    assert result.tried == []
    assert result.test.token == 1.0


# --- what is chosen, and on what


def test_the_learning_rate_is_chosen_on_validation_and_every_one_is_recorded():
    result = run(planted(distance=2.0), config_of("gating"))
    assert [entry["learning_rate"] for entry in result.tried] == [3e-3, 1e-2]
    best = min(entry["validation_nll"] for entry in result.tried)
    assert result.validation_nll == best == result.history[-1]["validation_nll"]
    assert [entry["epoch"] for entry in result.history] == list(range(1, 11))
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_test_chunks_do_not_reach_the_weights():
    data, other = planted(), planted(seed=9)
    changed = {k: other[k] if ".test" in k else v for k, v in data.items()}
    one, two = run(data, config_of()).mixer, run(changed, config_of()).mixer
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_loss_is_nll_plus_weighted_contrast():
    for entry in run(planted(), config_of("gating")).history:
        expected = entry["nll"] + SETTINGS.contrast_weight * entry["contrast"]
        assert entry["loss"] == pytest.approx(expected, rel=1e-4)
        assert entry["contrast"] > 0
    assert all(entry["contrast"] == 0 for entry in run(planted(), config_of("probe")).history)


# --- seeds, starts


@pytest.mark.parametrize("strategy", TRAINED)
def test_equal_seeds_give_equal_weights_and_different_seeds_different_ones(strategy):
    data = planted(distance=1.0)
    before = torch.get_rng_state()

    def weights(seed):
        mixer = run(data, config_of(strategy, epochs=2), seed=seed).mixer
        return torch.cat([p.flatten() for p in mixer.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.allclose(weights(0), weights(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_untrained_mixer_is_the_starting_point_of_the_trained_one():
    data, config = planted(), config_of(epochs=0)
    untrained = run(data, config).mixer.state_dict()
    frozen = CalibrationConfig(**plain(SETTINGS))
    object.__setattr__(frozen, "learning_rates", (0.0,))  # which settings refuse
    unmoved = run(data, config_of(epochs=3), calibration=frozen).mixer.state_dict()
    assert all(torch.equal(untrained[name], unmoved[name]) for name in untrained)


def test_continue_starts_from_the_given_weights_and_standardisation():
    data = planted()
    ours = run(data, config_of()).mixer.state_dict()
    kept = run(planted(seed=3), config_of(init="continue", epochs=0), seed=7, start=ours)
    assert all(torch.equal(v, ours[name]) for name, v in kept.mixer.state_dict().items())
    further = run(data, config_of(init="continue", epochs=1), seed=7, start=ours)
    fresh = run(data, config_of(epochs=1), seed=7)
    assert further.history[0]["nll"] < fresh.history[0]["nll"]


# --- errors


def test_starts_at_odds_with_init_are_refused():
    data = planted()
    ours = run(data, config_of(epochs=0)).mixer.state_dict()
    with pytest.raises(ValueError, match="init is continue but there are no weights"):
        run(data, config_of(init="continue"))
    with pytest.raises(ValueError, match="init is fresh but weights"):
        run(data, config_of(), start=ours)
    with pytest.raises(ValueError, match="another kind of mixer"):
        run(data, config_of("probe", init="continue"), start=ours)


def test_divergence_is_said_and_never_chosen():
    data = planted()
    data["d0.calibration"][0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="diverged at every one of learning_rates"):
        run(data, config_of())
    wild = CalibrationConfig(**plain(SETTINGS))
    object.__setattr__(wild, "learning_rates", (1e30, 1e-2))  # which settings refuse
    result = run(planted(), config_of(), calibration=wild)
    assert result.tried[0]["validation_nll"] is None
    assert result.test.token > 0.99


def test_one_domain_missing_material_and_empty_parts_are_refused():
    data = planted()
    with pytest.raises(ValueError, match="domains must be at least 2"):
        run({k: v for k, v in data.items() if not k.startswith("d1")}, config_of())
    with pytest.raises(ValueError, match=r"lack 'd1.validation.ids'"):
        run({k: v for k, v in data.items() if k != "d1.validation.ids"}, config_of())
    empty = {"d1.test": data["d1.test"][:0], "d1.test.ids": data["d1.test.ids"][:0]}
    with pytest.raises(ValueError, match="domain 'd1' has no test chunks"):
        run({**data, **empty}, config_of())


# --- the phase


def record_of(name, seed, *, tokens, chunks, trained=True, **config):
    entry = {"epoch": 1, "loss": 0.5, "nll": 0.4, "training_token_accuracy": 0.9}
    accuracy = {"nll": 0.3, "tokens": tokens, "chunks": chunks}
    return {
        "name": name,
        "seed": seed,
        "config": plain(config_of(**config)),
        "history": [entry] if trained else [],
        "tried": [{"learning_rate": 0.1, "validation_nll": 0.3}] if trained else [],
        "validation_nll": 0.3 + seed,
        "test": accuracy,
        "test_domains": accuracy,
        "test_chunk_domains": [0, 0, 1, 1],
    }


def works_of_chunks(**chunks):
    """Works of test chunks by domain."""
    arrays = {f"works.{domain}.test": np.array(names) for domain, names in chunks.items()}
    return chunk_works(arrays, list(chunks), "test")


APART = works_of_chunks(a=["p", "q"], b=["x/1", "y/2"])


def report_of(records, mixers, works=None):
    config = MixerReportConfig(
        domains=("a", "b"),
        mixers=mixers,
        calibration=SETTINGS,
        seeds=(0, 1),
        resamples=500,
        designs=1,
    )
    blocks = mixer_report(records, config, works=works or APART)
    return {
        name: {(row["metric"], row["seed"]): row for row in block["rows"]}
        for name, block in blocks.items()
    }, blocks


def test_report_averages_seeds_per_chunk_and_resamples_chunks():
    records = [
        record_of("ours", 1, tokens=[0.5, 1.0, 1.0, 1.0], chunks=[1, 1, 1, 1]),
        record_of("ours", 0, tokens=[0.7, 0.8, 0.9, 1.0], chunks=[1, 1, 1, 1]),
    ]
    rows, blocks = report_of(records, {"ours": config_of()})
    row = rows["ours"]["token_accuracy", None]
    assert row["value"] == pytest.approx((0.6 + 0.9 + 0.95 + 1.0) / 4)
    assert 0.5 <= row["low"] < row["value"] < row["high"] <= 1.0
    assert row["n"] == 4
    assert rows["ours"]["token_accuracy", 0]["value"] == pytest.approx(0.85)
    assert rows["ours"]["token_accuracy@a", None]["value"] == pytest.approx(0.75)
    assert rows["ours"]["validation_nll", None]["value"] == pytest.approx(0.8)
    assert rows["ours"]["router_loss", None]["value"] == pytest.approx(0.5)
    assert rows["ours"]["configurations_tried", None]["value"] == 1.0
    assert blocks["ours"]["curves"]["loss"] == [[0.5], [0.5]]
    # All chunks right: Wilson with n = 4, z = 1.96: low = n / (n + z^2) = .5101.
    chunk = rows["ours"]["chunk_accuracy", None]
    assert (chunk["value"], chunk["high"]) == (1.0, 1.0)
    assert chunk["low"] == pytest.approx(4 / (4 + 1.959964**2), abs=1e-4)
    assert "Wilson" in chunk["reason"]


def test_report_knows_which_chunks_are_of_one_work():
    tokens = [0.5, 0.5, 1.0, 0.9, 0.9, 0.9, 1.0, 1.0]
    records = [
        record_of("ours", seed, tokens=tokens, chunks=[1] * 8)
        | {"test_chunk_domains": [0] * 4 + [1] * 4}
        for seed in (0, 1)
    ]
    apart = works_of_chunks(a=list("pqrs"), b=list("wxyz"))
    shared = works_of_chunks(a=list("ppqq"), b=["f/1", "f/2", "g/1", "g/2"])
    one, two = (
        report_of(records, {"ours": config_of()}, works)[0]["ours"] for works in (apart, shared)
    )
    for metric in ("token_accuracy", "token_accuracy@a"):
        alone, wide = one[metric, None], two[metric, None]
        assert wide["value"] == alone["value"]
        assert wide["low"] <= alone["low"], metric
        assert wide["high"] - wide["low"] > alone["high"] - alone["low"], metric
    # All chunks right: four works stand for eight chunks in Wilson's interval.
    low = [rows["chunk_accuracy", None]["low"] for rows in (one, two)]
    assert low == pytest.approx([n / (n + 1.959964**2) for n in (8, 4)], abs=1e-4)


def test_material_that_does_not_name_the_works_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"works the loss chunks of b are: delete .* prepare"):
        chunk_works({"works.a.loss": np.array(["x"])}, ["a", "b"], "loss")


def test_report_names_controls_and_gives_reasons_instead_of_losses():
    plans = {
        "ours": config_of(),
        "ema": config_of("ema"),
        "ema_oracle": config_of("ema_oracle"),
        "token": config_of("token"),
        "untrained": config_of(epochs=0),
        "shuffled_labels": config_of(labels="shuffled"),
    }
    records = [
        record_of(name, seed, tokens=[1.0] * 4, chunks=[1] * 4, trained=name in ("ours", "ema"))
        for name in plans
        for seed in (0, 1)
    ]
    rows, _ = report_of(records, plans)
    controls = {name: rows[name]["token_accuracy", None]["control_of"] for name in plans}
    assert controls == {
        "ours": None,
        "ema": None,
        "ema_oracle": "ema",
        "token": "ours",
        "untrained": "ours",
        "shuffled_labels": "ours",
    }
    assert "epochs 0" in rows["untrained"]["router_loss", None]["reason"]
    assert "no parameters" in rows["ema_oracle"]["router_loss", None]["reason"]
    oracle = rows["ema_oracle"]["token_accuracy", None]
    assert oracle["low"] is None
    assert "by construction" in oracle["reason"]
    assert ("chunk_accuracy_true_domain", None) in rows["shuffled_labels"]
    assert ("chunk_accuracy_true_domain", None) not in rows["ours"]


def test_report_refuses_a_missing_seed():
    with pytest.raises(ValueError, match="'ours' has 0 records of seed 1"):
        report_of([record_of("ours", 0, tokens=[1.0], chunks=[1])], {"ours": config_of()})


def snakemake(tmp_path, config, **files):
    params = SimpleNamespace(config=plain(config), device="cpu", code="0" * 16, packages=("torch",))
    return SimpleNamespace(params=params, wildcards={}, threads=1, log=[tmp_path / "log"], **files)


def fit_by_script(tmp_path, name, mixer, *, seeds, ours=()):
    folders = [tmp_path / name / f"seed{seed}" for seed in seeds]
    files = {
        "input": Namelist(states=tmp_path / "states.safetensors", ours=list(ours)),
        "output": Namelist(
            weights=[folder / "mixer.safetensors" for folder in folders],
            records=[folder / "mixer.json" for folder in folders],
        ),
    }
    config = {
        "name": name,
        "mixer": mixer,
        "calibration": SETTINGS,
        "domains": ["d0", "d1"],
        "seeds": seeds,
        "limit": None,
    }
    frame = {"snakemake": snakemake(tmp_path, config, **files)}
    runpy.run_path(str(SCRIPTS / "routing_mixer_fit.py"), init_globals=frame)
    return files["output"].records


def test_scripts_fit_reload_continue_and_report(tmp_path):
    data = planted()
    write_tensors(tmp_path / "states.safetensors", data)
    mixers = {"ours": config_of(), "again": config_of(init="continue", epochs=0)}
    records = fit_by_script(tmp_path, "ours", mixers["ours"], seeds=[0, 1])
    records += fit_by_script(tmp_path, "again", mixers["again"], seeds=[0, 1], ours=records)
    weights = [read_tensors(path.with_name("mixer.safetensors")) for path in records]
    assert not torch.equal(weights[0]["head.weight"], weights[1]["head.weight"])
    assert torch.equal(weights[0]["head.weight"], weights[2]["head.weight"])
    assert torch.equal(weights[1]["head.weight"], weights[3]["head.weight"])

    mixer = load_mixers([records[0].with_name("mixer.safetensors")], device=CPU)["ours"][0]
    logits, _ = mixer(data["d1.test.ids"], data["d1.test"])
    assert (logits.argmax(-1) == 1).float().mean() > 0.99

    report = MixerReportConfig(
        domains=("d0", "d1"),
        mixers=mixers,
        calibration=SETTINGS,
        seeds=(0, 1),
        resamples=200,
        designs=1,
    )
    chunks = {d: [f"{d} {i}" for i in range(len(data[f"{d}.test"]))] for d in ("d0", "d1")}
    works = works_of_chunks(**chunks)
    blocks = mixer_report([read_json(path) for path in records], report, works=works)
    found = {r["metric"]: r["value"] for r in blocks["ours"]["rows"] if r["seed"] is None}
    assert found["token_accuracy"] > 0.99


def test_a_limit_keeps_the_first_chunks_and_tokens_of_calibration_only():
    data = planted()
    cut = limited(data, ["d0", "d1"], (3, 5))
    assert cut["d0.calibration"].shape[:2] == (3, 5)
    assert torch.equal(cut["d1.calibration.ids"], data["d1.calibration.ids"][:3, :5])
    assert torch.equal(cut["d0.test"], data["d0.test"])
    assert limited(data, ["d0", "d1"], None).keys() == data.keys()
