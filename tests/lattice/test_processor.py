import pytest
import torch

from mneme.core.config import ConfigError
from mneme.core.seeds import torch_generator
from mneme.lattice.adapter import WidthError
from mneme.lattice.automaton import Lattice
from mneme.lattice.blocks import parameter_count
from mneme.lattice.config import AdapterConfig, CellConfig
from mneme.lattice.control_cores import DenseCore
from mneme.lattice.processor import Processor, build_core

ADAPTER = AdapterConfig(strategy="hierarchical", dropout=0.1, groups=4)
CELL = CellConfig(
    kind="mlp",
    shape=(4, 3, 5),
    surface="single",
    channels=4,
    hidden=6,
    steps=3,
    boundary="walls",
    dropout=0.0,
    checkpointed=False,
)
GIVEN = {"surface_only": 15, "autoencoder": 64, "generator": 7, "dialogue": 64}


def processor(mode="dialogue", *, core="lattice", seed=0):
    condition = 7 if mode == "generator" else None
    sizes = {"core": core, "width": 64, "condition": condition, "seed": seed}
    return Processor(mode, ADAPTER, CELL, **sizes).eval()


def vectors(width, count=3):
    return torch.randn(count, width, generator=torch_generator(0, "given"))


@pytest.mark.parametrize("core", ["off", "lattice", "mlp", "curve", "frozen"])
@pytest.mark.parametrize("mode", GIVEN)
def test_what_goes_in_and_out(mode, core):
    output = processor(mode, core=core)(vectors(GIVEN[mode]))
    assert output.surface_BS.shape == (3, 15)
    if mode == "surface_only":
        assert output.embedding_BD is None
    else:
        assert output.embedding_BD.shape == (3, 64)


@pytest.mark.parametrize("mode", GIVEN)
def test_a_mode_is_its_parts_in_a_row(mode):
    made, given = processor(mode), vectors(GIVEN[mode])
    with torch.no_grad():
        made.core.alpha.fill_(0.3)
    first = {
        "surface_only": lambda x: x,
        "autoencoder": made.adapter.encoder,
        "dialogue": made.adapter.encoder,
        "generator": made.condition,
    }[mode](given)
    lattice = Lattice(CELL, frozen=False, generator=torch_generator(0, "core"))
    with torch.no_grad():
        lattice.alpha.fill_(0.3)
    output = made(given)
    assert torch.equal(output.surface_BS, lattice(first))
    assert not torch.equal(output.surface_BS, first)
    if mode != "surface_only":
        assert torch.equal(output.embedding_BD, made.adapter.decoder(lattice(first)))


def test_arms_with_another_core_start_as_the_same_network():
    given = vectors(64)
    off = processor(core="off")(given)
    for core in ("lattice", "mlp", "curve", "frozen"):
        on = processor(core=core)(given)
        assert torch.equal(on.surface_BS, off.surface_BS)
        assert torch.equal(on.embedding_BD, off.embedding_BD)
    assert not torch.equal(processor(core="off", seed=1)(given).surface_BS, off.surface_BS)


def test_the_dense_core_is_matched_to_the_lattice():
    lattice = build_core("lattice", CELL, generator=torch_generator(0))
    dense = build_core("mlp", CELL, generator=torch_generator(0))
    assert isinstance(dense, DenseCore)
    assert abs(parameter_count(dense) - parameter_count(lattice)) <= 31 / 2


@pytest.mark.parametrize("mode", GIVEN)
def test_one_sentence_for_another_width(mode):
    with pytest.raises(WidthError):
        processor(mode)(vectors(GIVEN[mode] + 1))


@pytest.mark.parametrize(("mode", "condition"), [("generator", None), ("dialogue", 7)])
def test_conditions_belong_to_the_generator(mode, condition):
    with pytest.raises(ConfigError, match="condition must be given in mode generator only"):
        Processor(mode, ADAPTER, CELL, core="off", width=64, condition=condition, seed=0)


def test_the_curve_is_one_function_of_each_number_with_the_lattices_parameters():
    curve = build_core("curve", CELL, generator=torch_generator(0))
    lattice = build_core("lattice", CELL, generator=torch_generator(0))
    assert parameter_count(curve) == pytest.approx(parameter_count(lattice), abs=2)
    with torch.no_grad():
        curve.alpha.fill_(1.0)
        surface = torch.randn(2, CELL.surface_size, generator=torch_generator(1))
        order = torch.randperm(CELL.surface_size, generator=torch_generator(2))
        torch.testing.assert_close(curve(surface)[:, order], curve(surface[:, order]))
        moved = surface.clone()
        moved[:, 3] += 1.0
        changed = (curve(moved) != curve(surface)).any(0).nonzero().flatten().tolist()
    assert changed == [3]
