import math

import pytest
import torch

from mneme.core import checkpoints
from mneme.core.config import ConfigError
from mneme.core.seeds import torch_generator
from mneme.zeta.carry import CarryConfig
from mneme.zeta.config import ModelConfig, RunConfig, TrainingConfig
from mneme.zeta.fit import Course, DivergedError, fit
from mneme.zeta.network import Material, build_network
from mneme.zeta.reading import effect_percent, rollout_reading, slot_effects, window_nll
from mneme.zeta.rollout import rollout

CPU = torch.device("cpu")
E0 = {
    "arm": "none",
    "system": "zeta",
    "position": "rope",
    "slot_id": False,
    "aux": "none",
    "aux_weight": 0.1,
    "regularise": False,
    "drift_weight": 0.0,
    "drift_every": 2,
    "drift_horizon": 5,
    "drift_batch": 3,
    "drift_schedule": "constant",
    "slot_dropout": 0.0,
    "without_slot": None,
    "split": "height",
    "share": 1.0,
    "control_of": None,
}
SLOTS = {"arm": "prefix", "slot_id": True}
V1 = SLOTS | {"aux": "window_stats"}
E2 = SLOTS | {"drift_weight": 0.1}
FAR = {"position": "distance"}
Q3 = SLOTS | {"aux": "q3", "regularise": True, "slot_dropout": 0.2}
SIZES = ModelConfig(layers=1, heads=2, width=16, components=3, window=32, slots=8, scale_floor=1e-3)
CARRY = CarryConfig(
    oscillators=6,
    highest=3.0,
    memory=40.0,
    shortest=5.0,
    mobility=1.0,
    channels=2,
    offsets=3,
    first_offset=-1.0,
    last_offset=2.0,
    recent=2,
    features=4,
    refresh=5,
)
SHORT = {
    "steps": 12,
    "batch": 8,
    "learning_rate": 3e-3,
    "memory_learning_rate": 0.3,
    "warmup": 2,
    "weight_decay": 0.1,
    "clip": 1.0,
    "eval_every": 5,
    "eval_windows": 4,
}


def run_config(**changes):
    return RunConfig(**(E0 | changes))


def training_config(**changes):
    return TrainingConfig(**(SHORT | changes))


@pytest.fixture(name="material", scope="module")
def _material():
    """Spacings that swing between long and short, so that a model can learn to tell the next."""
    noise = torch.randn(60, 32, generator=torch_generator(0, "noise"))
    swing = torch.tensor([0.4, -0.4]).repeat(16)
    return Material(
        spacings_WT=1 + swing + 0.1 * noise,
        level_WT=torch.full((60, 32), 10.0),
        train=torch.arange(48),
        val=torch.arange(48, 60),
    )


def fitted(material, folder, *, run=None, seed=0, log=lambda line: None, **training):
    return fit(
        material,
        run or run_config(),
        SIZES,
        training_config(**training),
        carry=CARRY if run and run.arm in ("carry", "carry_reset") else None,
        seed=seed,
        device=CPU,
        checkpoint=folder / "checkpoint",
        fingerprint="f",
        log=log,
        label="test",
    )


def course_of(material, run=None, **training):
    run = run or run_config()
    network = build_network(run, SIZES, carry=None, seed=0)
    return Course(network, material, run, training_config(**training), seed=0)


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_learns_what_is_planted_and_nothing_of_noise(material, tmp_path):
    planted = fitted(material, tmp_path, steps=120, learning_rate=1e-2)
    swing = torch.tensor([0.4, -0.4]).repeat(16)
    exact = torch.distributions.Normal(1 + swing[1:], 0.1)
    known = -exact.log_prob(material.spacings_WT[48:, 1:]).mean().item()
    assert known < planted.history["val_nll_all"] < known + 0.35
    place = torch.rand(60, 32, generator=torch_generator(3, "order")).argsort(1)
    mixed = Material(
        spacings_WT=material.spacings_WT.gather(1, place),
        level_WT=material.level_WT,
        train=material.train,
        val=material.val,
    )
    (tmp_path / "mixed").mkdir()
    lost = fitted(mixed, tmp_path / "mixed", steps=120, learning_rate=1e-2)
    assert lost.history["val_nll_all"] > known + 0.45  # ln 2 is the entropy of the swing


def test_first_step_is_adamw_on_the_mean_nll(material):
    course = course_of(material, run_config(), warmup=0, clip=1e9, weight_decay=0.5)
    slow = build_network(run_config(), SIZES, carry=None, seed=0).model
    rows = course.rows_of(0)
    x = material.spacings_WT[rows]
    total = 0.0
    for row in x:
        total = total - slow(row[None, :-1]).mixture.log_prob(row[None, 1:]).sum()
    (total / (8 * 31)).backward()
    parts = [[p for p in slow.parameters() if (p.ndim >= 2) == matrix] for matrix in (True, False)]
    groups = [{"params": parts[0], "weight_decay": 0.5}, {"params": parts[1], "weight_decay": 0}]
    torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95)).step()
    record = course.step(0)
    assert record["nll"] == pytest.approx(total.item() / (8 * 31), rel=1e-5)
    for mine, other in zip(course.network.model.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_every_window_trains_once_an_epoch_in_an_order_of_its_own(material):
    course = course_of(material)
    rows = torch.cat([course.rows_of(index) for index in range(12)])  # two epochs of 48
    assert sorted(rows[:48].tolist()) == sorted(rows[48:].tolist()) == list(range(48))
    assert rows[:48].tolist() != rows[48:].tolist()
    uneven = course_of(material, batch=20)
    rows = torch.cat([uneven.rows_of(index) for index in range(12)])  # five epochs, cut anywhere
    assert rows[:48].tolist() == torch.cat([course.rows_of(i) for i in range(6)]).tolist()
    assert torch.bincount(rows).tolist() == [5] * 48


def test_val_windows_never_train(material, tmp_path):
    changed = material.spacings_WT.clone()
    changed[48:] = 1.0
    other = Material(
        spacings_WT=changed, level_WT=material.level_WT, train=material.train, val=material.val
    )
    (tmp_path / "other").mkdir()
    first, second = fitted(material, tmp_path), fitted(other, tmp_path / "other")
    assert same(first.last, second.last)
    assert first.history["val_nll_all"] != second.history["val_nll_all"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("run", "at"),
    [
        ({}, 4),
        (E2 | {"position": "distance"}, 5),
        ({}, 11),
        (V1, 7),
        (E2, 6),
        (Q3, 9),
        ({"arm": "carry"}, 8),
    ],
)
def test_killed_and_continued_equals_uninterrupted(material, tmp_path, monkeypatch, run, at):
    run = run_config(**run)
    whole = fitted(material, tmp_path, run=run)
    checkpoints.remove(tmp_path / "checkpoint")
    step = Course.step

    def dies(course, index):
        if index == at:
            raise Killed
        return step(course, index)

    with monkeypatch.context() as patch:
        patch.setattr(Course, "step", dies)
        patch.setitem(checkpoints.run_steps.__kwdefaults__, "save_every_s", 0.0)
        with pytest.raises(Killed):
            fitted(material, tmp_path, run=run)
    lines = []
    continued = fitted(material, tmp_path, run=run, log=lines.append)
    assert f"continuing after step {at}/12" in lines[0]
    assert same(whole.last, continued.last)
    assert same(whole.best, continued.best)
    assert whole.best_step == continued.best_step
    timed = ("seconds", "tokens_per_s")
    for key in whole.history.keys() - set(timed):
        assert whole.history[key] == continued.history[key], key


def test_carried_states_come_from_all_windows_before(material):
    network = build_network(run_config(arm="carry"), SIZES, carry=CARRY, seed=0)
    network.refresh(material, anchor=True)
    rows = torch.tensor([7, 3])
    out = network(material, rows, slots=None).mixture.means
    for row, means in zip(rows.tolist(), out, strict=True):
        told, state = [], network.memory.initial_state(1)
        for window in range(row + 1):
            x, level = material.spacings_WT[window, None], material.level_WT[window, None]
            if window < row:
                _, state = network.memory.features(x, level, state)
                continue
            for place in range(31):
                features, state = network.memory.step(x[:, place], level[:, place], state)
                told.append(features)
        slow = network.model(x[:, :-1], extra_BTF=torch.stack(told, dim=1)).mixture.means[0]
        torch.testing.assert_close(means, slow, rtol=1e-3, atol=1e-4)


def test_states_follow_the_memory_at_the_asked_steps(material):
    run = run_config(arm="carry")
    network = build_network(run, SIZES, carry=CARRY, seed=0)
    course = Course(network, material, run, training_config(eval_every=100), seed=0)
    anchors = []
    for index in range(7):
        course.step(index)
        anchors.append(network.memory.anchor_2M.clone())
    assert all(torch.equal(anchors[0], anchors[index]) for index in range(5))
    assert not torch.equal(anchors[0], anchors[5])
    assert torch.equal(anchors[5], anchors[6])


def test_seed_changes_initial_weights_and_order(material, tmp_path):
    zero, again = fitted(material, tmp_path), fitted(material, tmp_path)  # the second: read back
    assert same(zero.last, again.last)
    one = build_network(run_config(), SIZES, carry=None, seed=1)
    none = build_network(run_config(), SIZES, carry=None, seed=0)
    assert not torch.equal(one.model.head.weight, none.model.head.weight)
    first = course_of(material).rows_of(0)
    second = Course(one, material, run_config(), training_config(), seed=1).rows_of(0)
    assert first.tolist() != second.tolist()
    three = fitted(material, tmp_path, seed=1)
    assert not same(zero.last, three.last)


def test_best_state_is_the_one_of_the_best_reading(material, tmp_path):
    bad_end = fitted(material, tmp_path, steps=40, learning_rate=3e-2, warmup=0, eval_every=4)
    points = {p["step"]: p["val_nll"] for p in bad_end.history["points"]}
    assert list(points) == list(range(4, 41, 4))
    assert points[bad_end.best_step] == min(points.values())
    network = build_network(run_config(), SIZES, carry=None, seed=0)
    network.load_state_dict(bad_end.best)
    rows = material.val[::3]  # 4 evenly spaced windows of 12
    again = window_nll(network, material, rows).mean().item()
    assert again == pytest.approx(min(points.values()), rel=1e-5)
    all_last = window_nll(bad_end.network, material, material.val).mean().item()
    assert all_last == pytest.approx(bad_end.history["val_nll_all"], rel=1e-5)


def test_history_is_plain_and_tells_the_throughput(material, tmp_path):
    history = fitted(material, tmp_path, run=run_config(**V1)).history
    assert [p["step"] for p in history["points"]] == [5, 10, 12]
    assert history["tokens"] == 12 * 8 * 31
    seconds = history["tokens"] / history["tokens_per_s"]
    assert history["seconds"] == pytest.approx(seconds, abs=1e-3)
    for point in history["points"]:
        wanted = {"train_loss", "train_nll", "train_aux", "val_nll", "eff_percent"}
        assert wanted <= point.keys()
        parts = point["train_nll"] + 0.1 * point["train_aux"]
        assert point["train_loss"] == pytest.approx(parts, rel=1e-5)


def test_drift_is_added_when_due(material):
    course = course_of(material, run_config(**E2))
    with torch.no_grad():
        due, not_due = course.losses(2), course.losses(3)
    assert "drift" not in not_due
    wanted = due["nll"] + 0.1 * due["drift"]
    torch.testing.assert_close(due["loss"], wanted)


def test_a_slot_that_never_existed_is_zero_in_training_and_reading(material, tmp_path):
    run = run_config(**SLOTS, without_slot=1)
    fitted_run = fitted(material, tmp_path, run=run)
    model, rows = fitted_run.network.model, material.val
    with torch.no_grad():
        before = fitted_run.network(material, rows, slots=None).mixture.means
        model.bank.slots_MD[1] += 1.0
        model.bank.ids_MD[1] -= 3.0
        assert torch.equal(fitted_run.network(material, rows, slots=None).mixture.means, before)
        model.bank.slots_MD[0] += 1.0
        assert not torch.equal(fitted_run.network(material, rows, slots=None).mixture.means, before)
    moved = build_network(run, SIZES, carry=None, seed=0).model.bank.slots_MD
    trained = fitted_run.last["model.bank.slots_MD"]
    assert torch.equal(trained[1], moved[1])
    assert not torch.equal(trained[0], moved[0])


def test_slots_learn_more_slowly_and_do_not_decay(material):
    course = course_of(material, run_config(**Q3))
    groups = course.optimizer.param_groups
    slots = {id(p) for p in course.network.model.memory_parameters()}
    for group in groups:
        inside = [id(p) in slots for p in group["params"]]
        assert all(inside) or not any(inside)
        assert group["factor"] == (0.3 if inside[0] else 1.0)
        matrices = not inside[0] and group["params"][0].ndim >= 2
        assert group["weight_decay"] == (0.1 if matrices else 0.0)
    trained = sum(len(group["params"]) for group in groups)
    assert trained == len(list(course.network.parameters())) + 2  # and the heads of the targets


def test_regularised_slots_stay_within_the_cap(material):
    course = course_of(material, run_config(**Q3))
    with torch.no_grad():
        course.network.model.bank.slots_MD.mul_(100)
    course.step(0)
    norms = course.network.model.bank.vectors().norm(dim=1)
    assert norms.max().item() == pytest.approx(5.0, abs=1e-4)


@pytest.mark.parametrize("position", [{}, FAR])
def test_slot_readings_equal_one_by_one(material, position):
    network = build_network(run_config(**V1 | position), SIZES, carry=None, seed=0)
    model, rows = network.model, torch.arange(7)
    level = {"level_B": material.level_WT[:7, 0]} if position else {}
    with torch.no_grad():
        model.head.weight.normal_(generator=torch_generator(4, "head"))
    x = material.spacings_WT[:7]
    base = model(x[:, :-1], **level).mixture.mean()
    error = (base - x[:, 1:]).abs().mean()
    effects = []
    for slot in range(8):
        cut = build_network(run_config(**V1 | position), SIZES, carry=None, seed=0).model
        cut.load_state_dict(model.state_dict())
        with torch.no_grad():
            cut.bank.slots_MD[slot] = 0
            cut.bank.ids_MD[slot] = 0
        effects.append((cut(x[:, :-1], **level).mixture.mean() - base).abs().mean() / error)
    effects = torch.stack(effects).detach()
    torch.testing.assert_close(slot_effects(network, material, rows), effects, rtol=1e-4, atol=1e-6)
    read = effect_percent(network, material, rows)
    assert read == pytest.approx(100 * effects.max().item(), rel=1e-4)
    told = rollout(model, x[:, :10], horizon=10, mode="mean", generator=None, **level)
    error = (told - x[:, 10:20]).abs().mean().item()
    assert rollout_reading(network, material, rows) == pytest.approx(error)


@pytest.mark.parametrize("arm", ["none", "carry", "carry_reset", "prefix", "film"])
def test_every_transformer_arm_is_rolled_out_along_its_training(material, tmp_path, arm):
    run = run_config(arm=arm, slot_id=arm == "prefix")
    history = fitted(material, tmp_path, run=run).history
    for point in history["points"]:
        assert math.isfinite(point["err_source@10"])
        assert ("eff_percent" in point) == (arm in ("prefix", "film"))


def test_a_carried_memory_is_rolled_out_from_what_it_has_read(material):
    network = build_network(run_config(arm="carry"), SIZES, carry=CARRY, seed=0)
    network.refresh(material, anchor=True)
    errors = []
    for row in (5, 9):
        state = network.memory.initial_state(1)
        for window in range(row):
            x, level = material.spacings_WT[window, None], material.level_WT[window, None]
            _, state = network.memory.features(x, level, state)
        x, level = material.spacings_WT[row, None], material.level_WT[row, :1]
        features = []
        told = x[:, :10]
        for place in range(19):  # without a cache: everything is read anew for each prediction
            feature, state = network.memory.step(told[:, place], level, state)
            features.append(feature)
            if place >= 9:
                law = network.model(told, extra_BTF=torch.stack(features, dim=1)).mixture
                told = torch.cat([told, law.mean()[:, -1:].clamp_min(1e-3)], dim=1)
        errors.append((told[:, 10:20] - x[:, 10:20]).abs().mean().item())
    read = rollout_reading(network, material, torch.tensor([5, 9]))
    assert read == pytest.approx(sum(errors) / 2, rel=1e-3)


def test_a_loss_that_is_no_number_names_the_step(material, tmp_path):
    broken = material.spacings_WT.clone()
    broken[course_of(material).rows_of(3)[0], 7] = math.nan
    other = Material(
        spacings_WT=broken, level_WT=material.level_WT, train=material.train, val=material.val
    )
    with pytest.raises(DivergedError, match=r"loss is nan at step 3: lower learning_rate"):
        fitted(other, tmp_path)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (E0 | E2 | {"drift_horizon": 17}, "drift_horizon must be at most 16"),
        (E0 | {"regularise": True}, "regularise must be false for arm none"),
        (E0 | {"arm": "primes"}, "arm must be one with a transformer"),
    ],
)
def test_settings_that_do_not_go_together_are_named(material, tmp_path, run, message):
    with pytest.raises(ConfigError, match=message):
        fitted(material, tmp_path, run=run_config(**run))


@pytest.mark.parametrize(("arm", "carry"), [("carry", None), ("none", CARRY)])
def test_a_carried_memory_belongs_to_its_arm(arm, carry):
    with pytest.raises(ConfigError, match="carry must be given exactly for arms of"):
        build_network(run_config(arm=arm), SIZES, carry=carry, seed=0)
