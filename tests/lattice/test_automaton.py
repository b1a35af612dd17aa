import warnings

import pytest
import torch
from torch.nn import functional as F

from mneme.core.config import ConfigError
from mneme.core.seeds import torch_generator
from mneme.lattice.adapter import WidthError
from mneme.lattice.automaton import SLOTS, Lattice, LatticeWarning, stencil
from mneme.lattice.blocks import parameter_count
from mneme.lattice.config import CellConfig
from mneme.lattice.control_cores import DenseCore

SMALL = {
    "kind": "mlp",
    "shape": (11, 15, 15),
    "surface": "single",
    "channels": 3,
    "hidden": 5,
    "steps": 10,
    "boundary": "walls",
    "dropout": 0.0,
    "checkpointed": False,
}
BOX = {"shape": (4, 5, 6), "steps": 7, "channels": 6}
KINDS = ("mlp", "gmlp")


def cell_config(**changes):
    return CellConfig(**(SMALL | changes))


def lattice(*, seed=0, frozen=False, **changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LatticeWarning)
        config = cell_config(**changes)
        return Lattice(config, frozen=frozen, generator=torch_generator(seed, "lattice")).double()


def surfaces(made, count=2, seed=0):
    shape = (count, made.config.surface_size)
    return torch.randn(shape, generator=torch_generator(seed, "surface"), dtype=torch.float64)


def stirred(made, seed=1):
    """Replace every weight, so that nothing is at its tame initial value."""
    generator = torch_generator(seed, "stir")
    with torch.no_grad():
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.3 * noise)
    return made


def retrieval_loss(made, x, y):
    """Symmetric InfoNCE: indifferent to the size of what it compares."""
    scores = F.normalize(made(x), dim=1) @ F.normalize(y, dim=1).T / 0.1
    right = torch.arange(len(x))
    return F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)


@pytest.mark.parametrize(
    ("surface", "size"), [("single", 225), ("triple", 225 + 2 * 165), ("full", 450 + 4 * 165)]
)
def test_sizes_of_surfaces(surface, size):
    config = cell_config(surface=surface, channels=6, steps=14)
    assert config.surface_size == size
    assert config.crossing == (10 if surface == "single" else 14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("surface", ["single", "triple", "full"])
def test_on_equals_off_at_the_start(kind, surface):
    made = lattice(kind=kind, surface=surface, channels=6, steps=10)
    x = surfaces(made)
    assert torch.equal(made(x), x)


@pytest.mark.parametrize("surface", ["single", "triple", "full"])
def test_the_rule_starts_as_transport(surface):
    """Without its learned part the far face shows the surface, at once and ever after."""
    made = lattice(surface=surface, **BOX)
    with torch.no_grad():
        made.cell.outward.weight.zero_()
    x = surfaces(made)
    states = made.states(x)
    own = [c for c, owner in enumerate(made.owner_C) if owner == 0]
    expected = made.inject_C[own][None, :, None, None] * x[:, :30].reshape(2, 1, 5, 6)
    for z in range(4):
        assert not states[:z, :, own, z].any()
        for state in states[z:]:
            torch.testing.assert_close(state[:, own, z], expected)
    sources = made.source(x).movedim(-1, 1)
    for face, (axis, place) in enumerate(made.faces):
        far = -1 if place == 0 else 0
        channels = [c for c, owner in enumerate(made.owner_C) if owner == face]
        sent = sources[:, channels].select(axis + 2, place)
        assert sent.any()
        torch.testing.assert_close(states[-1, :, channels].select(axis + 2, far), sent)


@pytest.mark.parametrize("kind", KINDS)
def test_it_can_learn(kind):
    """Alpha has a gradient at the start though the loss is blind to size, the rule one step on."""
    made = lattice(kind=kind)
    x, y = surfaces(made, 6), surfaces(made, 6, seed=1)
    retrieval_loss(made, x, y).backward()
    assert made.alpha.grad.abs() > 1e-3
    assert all(not p.grad.any() for p in made.cell.parameters())
    torch.optim.SGD(made.parameters(), lr=1e-2).step()
    made.zero_grad()
    retrieval_loss(made, x, y).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad.abs().max() > 1e-8, name


def test_a_rule_of_zeros_could_not_learn():
    made = lattice()
    with torch.no_grad():
        made.alpha.fill_(0.1)
        for parameter in made.cell.parameters():
            parameter.zero_()
    x, y = surfaces(made, 6), surfaces(made, 6, seed=1)
    retrieval_loss(made, x, y).backward()
    assert not made.cell.move.weight.grad.any()
    assert not made.cell.inward.weight.grad.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("steps", "arrives"), [(0, False), (5, False), (9, False), (10, True)])
def test_a_perturbation_needs_ten_steps(kind, steps, arrives):
    made = stirred(lattice(kind=kind, steps=steps))
    x = surfaces(made, 1)
    poked = x.clone()
    poked[0, 112] += 1.0
    with torch.no_grad():
        change = made.read(made.states(poked)[-1].movedim(1, -1))
        change -= made.read(made.states(x)[-1].movedim(1, -1))
    assert bool(change.any()) == arrives
    if arrives:  # only the cell in line with it: sideways takes further steps
        assert change.nonzero()[:, 1].tolist() == [112]


def test_columns_mix_only_after_further_steps():
    made = stirred(lattice(steps=12))
    x = surfaces(made, 1)
    poked = x.clone()
    poked[0, 112] += 1.0
    with torch.no_grad():
        changed = (made(poked) - made(x)).nonzero()[:, 1]
    distance = [abs(i // 15 - 7) + abs(i % 15 - 7) for i in changed.tolist()]
    assert max(distance) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("boundary", ["walls", "periodic"])
def test_equal_to_a_loop_over_cells(kind, boundary):
    box = BOX | {"shape": (3, 3, 4), "steps": 4}
    made = stirred(lattice(kind=kind, boundary=boundary, **box))
    x = surfaces(made)
    with torch.no_grad():
        expected = torch.stack([loop(made, row) for row in x])
        torch.testing.assert_close(made(x), expected, rtol=1e-12, atol=1e-12)


def loop(made, surface_S):
    """Run the automaton cell by cell, from the weights and the definition only."""
    config, depth, rows, columns = made.config, *made.config.shape
    silent = torch.zeros(config.channels, dtype=torch.float64)
    held = {
        (0, y, x): made.inject_C * surface_S[y * columns + x]
        for y in range(rows)
        for x in range(columns)
    }
    everywhere = [(z, y, x) for z in range(depth) for y in range(rows) for x in range(columns)]
    state = {place: held.get(place, silent) for place in everywhere}

    def neighbour(field, place, step, blank):
        z, y, x = (a + b for a, b in zip(place, step, strict=True))
        if config.boundary == "periodic":
            y, x = y % rows, x % columns
        return field.get((z, y, x), blank)

    for _ in range(config.steps):
        new = {}
        if is_gated(made):
            hidden = {place: F.gelu(made.cell.inward(v)) for place, v in state.items()}
        for place in everywhere:
            seen = torch.cat([neighbour(state, place, step, silent) for step in SLOTS])
            change = made.cell.move.weight @ seen
            if is_gated(made):
                width = config.hidden
                gate = made.cell.open_H.clone()
                for slot, step in enumerate(SLOTS):
                    blank = torch.zeros(2 * width, dtype=torch.float64)
                    other = neighbour(hidden, place, step, blank)[width:]
                    gate += made.cell.gate_PH[slot] * other
                change = change + made.cell.outward(hidden[place][:width] * gate)
            else:
                change = change + made.cell.outward(F.gelu(made.cell.inward(seen)))
            new[place] = held.get(place, state[place] + change)
        state = new
    shown = [
        F.gelu(state[depth - 1, y, x]) @ made.readout.weight[0] + made.readout.bias[0]
        for y in range(rows)
        for x in range(columns)
    ]
    return surface_S + made.alpha * torch.stack(shown)


def is_gated(made):
    return made.config.kind == "gmlp"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("surface", "depth", "boundary"),
    [
        ("single", 4, "walls"),
        ("single", 4, "periodic"),
        ("single", 2, "walls"),
        ("full", 4, "walls"),
    ],
)
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 5, 9])
def test_leaving_out_what_cannot_matter_changes_nothing(steps, surface, depth, boundary, kind):
    box = BOX | {"steps": steps, "shape": (depth, 5, 6)}
    made = stirred(lattice(surface=surface, boundary=boundary, kind=kind, **box))
    x = surfaces(made, 3).requires_grad_()
    whole = made.read(made.states(x)[-1].movedim(1, -1))
    towards = torch.randn(whole.shape, generator=torch_generator(0, "towards"), dtype=whole.dtype)
    of = [x, *made.parameters()]
    expected = torch.autograd.grad((whole * towards).sum(), of, materialize_grads=True)
    shown = made.shown(x)
    torch.testing.assert_close(shown, whole, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad((shown * towards).sum(), of, materialize_grads=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_neighbours_stand_in_their_slots():
    state = torch.arange(1.0, 61.0).reshape(1, 3, 4, 5, 1)
    one_each = torch.eye(7)[..., None]
    walls = stencil(state, one_each, None, boundary="walls")
    at = state[0, ..., 0]
    places = [(1, 2, 3), (0, 2, 3), (2, 2, 3), (1, 1, 3), (1, 3, 3), (1, 2, 2), (1, 2, 4)]
    assert walls[0, 1, 2, 3].tolist() == [at[place].item() for place in places]
    assert walls[0, 0, 0, 0].tolist() == [1.0, 0.0, at[1, 0, 0], 0.0, at[0, 1, 0], 0.0, at[0, 0, 1]]
    round_about = stencil(state, one_each, None, boundary="periodic")
    corner = [1.0, 0.0, at[1, 0, 0], at[0, 3, 0], at[0, 1, 0], at[0, 0, 4], at[0, 0, 1]]
    assert round_about[0, 0, 0, 0].tolist() == corner


def test_periodic_lattices_have_no_special_place():
    made = stirred(lattice(boundary="periodic", **BOX))
    x = surfaces(made)
    with torch.no_grad():
        rolled = x.reshape(2, 5, 6).roll((2, 3), (1, 2)).reshape(2, 30)
        out = made(x).reshape(2, 5, 6).roll((2, 3), (1, 2)).reshape(2, 30)
        torch.testing.assert_close(made(rolled), out)
        walled = lattice(boundary="walls", **BOX)
        walled.load_state_dict(made.state_dict())
        assert not torch.allclose(walled(x), made(x))


def test_checkpointing_changes_nothing_but_memory():
    gradients = []
    for checkpointed in (False, True):
        made = stirred(lattice(checkpointed=checkpointed, **BOX))
        made(surfaces(made)).square().sum().backward()
        gradients.append([p.grad for p in made.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_dropout_leaves_out_whole_cells_and_keeps_the_mean():
    made = lattice(dropout=0.25, **BOX).cell.dropout
    update = torch.ones(40, 4, 5, 6, 3)
    assert made.eval()(update) is update
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kept = made.train()(update)
    assert torch.equal(kept.amin(-1), kept.amax(-1))
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert kept.mean().item() == pytest.approx(1, abs=0.03)


def test_a_frozen_lattice_keeps_its_rule():
    made = lattice(frozen=True, **BOX)
    trained = {name for name, p in made.named_parameters() if p.requires_grad}
    assert trained == {"alpha", "readout.weight", "readout.bias"}
    x, y = surfaces(made, 6), surfaces(made, 6, seed=1)
    retrieval_loss(made, x, y).backward()
    assert made.alpha.grad.abs() > 1e-3
    ratio = made.cell.outward.weight.std() / lattice(**BOX).cell.outward.weight.std()
    assert ratio.item() == pytest.approx(10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_dense_control_has_as_many_parameters(kind):
    parameters = parameter_count(lattice(kind=kind, channels=8, hidden=32))
    control = DenseCore(225, parameters, generator=torch_generator(0))
    assert abs(parameter_count(control) - parameters) <= (2 * 225 + 1) / 2
    x = torch.randn(2, 225, generator=torch_generator(1))
    assert torch.equal(control(x), x)


def test_seeds_decide_the_weights():
    for name, weight in lattice(seed=0).named_parameters():
        assert torch.equal(weight, dict(lattice(seed=0).named_parameters())[name])
    assert not torch.equal(lattice(seed=0).inject_C, lattice(seed=1).inject_C)
    assert not torch.equal(lattice(seed=0).cell.inward.weight, lattice(seed=1).cell.inward.weight)


@pytest.mark.parametrize("steps", [0, 9])
def test_a_warning_below_the_crossing(steps):
    with pytest.warns(LatticeWarning, match=f"needs 10 steps .* {steps} are set"):
        Lattice(cell_config(steps=steps), frozen=False, generator=torch_generator(0))
    Lattice(cell_config(steps=10), frozen=False, generator=torch_generator(0))


def test_one_sentence_for_another_surface():
    with pytest.raises(WidthError, match="do not fit a single surface of 225 numbers"):
        lattice()(torch.zeros(2, 224, dtype=torch.float64))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"channels": 2, "surface": "triple"}, "channels"),
        ({"boundary": "periodic", "surface": "triple"}, "boundary"),
        ({"steps": -1}, "steps"),
        ({"shape": (1, 15, 15)}, "shape"),
        ({"dropout": 1.0}, "dropout"),
        ({"hidden": 0}, "hidden"),
    ],
)
def test_settings_out_of_range(changes, key):
    with pytest.raises(ConfigError, match=key):
        cell_config(**changes)
