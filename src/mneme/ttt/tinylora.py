"""TinyLoRA on the transformer's linear layers: PEFT's form and the source's, saved and merged.

PEFT's form changes a layer W = U S V^T by dW = B (sum_i v_i P_i) A, where B = U_r sqrt(S_r) and
A = sqrt(S_r) V_r^T hold its r largest singular vectors, P_i are fixed random r x r matrices and
only the numbers v_i are trained. The source's form changes it by dW = s l r^T: the vectors l, r are
shared by all layers of one shape and trained, as is the layer's own number s, which starts at 0.

Training goes through the wrapped network; everything else reads a network with the changes added
to its weights, so that fast weights start from the adapted ones and no reader knows of adapters.
A folder is read without PEFT, whose import takes longer than a chat's first answer.

References
----------
Morris et al. 2026, Learning to Reason in 13 Parameters (TinyLoRA).
Balazy et al. 2024, LoRA-XS (the frozen singular vectors).
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mneme.core.artefacts import read_json, read_tensors, write_json, write_tensors
from mneme.core.seeds import derive
from mneme.ttt.adapter_config import AdapterRunConfig
from mneme.ttt.model import TTTTransformer

PARENTS = ("attention", "mlp", "mlp_ttt", "mlp_static")
"""Modules whose linear layers carry an adapter; the head carries none."""
NAMES = ("q", "k", "v", "o", "gate", "up", "down")
"""Those layers' names."""
PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")
SHARED_FILES = ("shared_config.json", "adapter_model.safetensors")
"""Files of a folder in PEFT's and in the source's form."""
Shapes = Mapping[str, tuple[int, ...]]
"""Layer -> (out, in)."""
_KEY = "base_model.model."
_NAME = "default"  # PEFT's own


class AdapterError(ValueError):
    """An adapter that does not belong to the model, or is none."""


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers that carry an adapter, by name, in the model's order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and _carries(name)
    }


def _carries(name: str) -> bool:
    parent, _, last = name.rpartition(".")
    return parent.rpartition(".")[2] in PARENTS and last in NAMES


def adapt(base: TTTTransformer, run: AdapterRunConfig, *, seed: int) -> nn.Module:
    """Wrap a copy of the model so that only a fresh adapter of the run's form is trained.

    Parameters
    ----------
    base : TTTTransformer
        Trained network, left as it is.
    run : AdapterRunConfig
        Form and size.
    seed : int
        Decides P (PEFT's form) or the shared vectors (the source's).

    Returns
    -------
    PeftModel or SharedTinyLora
        The same function as `base` until it is trained; calls on tokens (B, T) give logits.
    """
    frozen = copy.deepcopy(base).requires_grad_(False)
    if run.form == "shared":
        generator = torch.Generator().manual_seed(derive(seed, "shared"))
        return SharedTinyLora(frozen, generator=generator)
    from peft import TinyLoraConfig, get_peft_model

    config = TinyLoraConfig(
        r=run.rank or 0,
        u=run.vector or 0,
        weight_tying=0.0,
        projection_seed=derive(seed, "tinylora") % 2**31,  # PEFT adds the layer's number
        target_modules=rf"(.*\.)?({'|'.join(PARENTS)})\.({'|'.join(NAMES)})",
    )
    # PEFT 0.21 reads an attribute that transformers 5.23 deprecates.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return get_peft_model(frozen, config, adapter_name=_NAME)  # type: ignore[arg-type]


class SharedTinyLora(nn.Module):
    """A frozen network whose layers change by s l r^T, the source's form.

    Parameters
    ----------
    base : TTTTransformer
        Network, frozen.
    generator : torch.Generator
        Draws l and r, of length about 1; s = 0, so that nothing changes before training.
    """

    def __init__(self, base: TTTTransformer, *, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.shapes = {name: tuple(layer.weight.shape) for name, layer in linears(base).items()}
        weight = next(iter(linears(base).values())).weight
        self.left, self.right = nn.ParameterDict(), nn.ParameterDict()
        for rows, columns in sorted(set(self.shapes.values())):
            for side, size in ((self.left, rows), (self.right, columns)):
                drawn = torch.randn(size, generator=generator) / math.sqrt(size)
                side[f"{rows}x{columns}"] = nn.Parameter(drawn.to(weight))
        self.scale = nn.ParameterDict(
            {_flat(name): nn.Parameter(weight.new_zeros(())) for name in self.shapes}
        )

    def deltas(self) -> dict[str, Tensor]:
        """Return the change of every layer's weight by its name, (out, in) each."""
        found = {}
        for name, (rows, columns) in self.shapes.items():
            left, right = (side[f"{rows}x{columns}"] for side in (self.left, self.right))
            found[name] = self.scale[_flat(name)] * torch.outer(left, right)
        return found

    def forward(self, tokens_BT: Tensor, counted_BT: Tensor | None = None) -> Tensor:
        """Return the adapted network's logits (B, T, V), or (K, V) of counted positions."""
        layers = linears(self.base)
        weights = {f"{k}.weight": layers[k].weight + delta for k, delta in self.deltas().items()}
        return torch.func.functional_call(self.base, weights, (tokens_BT, counted_BT))


def _flat(name: str) -> str:
    """Name a layer without dots, which modules do not allow in a parameter's name."""
    return name.replace(".", "/")


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name, each once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def deltas_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the change of every adapted layer, (out, in) each, without a graph."""
    with torch.no_grad():
        if isinstance(model, SharedTinyLora):
            return model.deltas()
        layers = dict(model.named_modules())
        wrapped = {n: m for n, m in layers.items() if hasattr(m, "get_delta_weight")}
        found: dict[str, Any] = {n: m.get_delta_weight(_NAME) for n, m in wrapped.items()}  # type: ignore[operator]
        return {name.removeprefix(_KEY): delta for name, delta in found.items()}


def merged(base: TTTTransformer, deltas: Mapping[str, Tensor]) -> TTTTransformer:
    """Return a copy of the model with the changes added to its weights."""
    model = copy.deepcopy(base)
    layers = linears(model)
    with torch.no_grad():
        for name, delta in deltas.items():
            layers[name].weight += delta.to(layers[name].weight)
    return model


def save_adapter(model: nn.Module, folder: str | Path, *, base_name: str) -> None:
    """Save an adapter as a folder that `load_adapter` takes, and in PEFT's form PEFT itself.

    Parameters
    ----------
    model : PeftModel or SharedTinyLora
        As `adapt` made it.
    folder : path
        Written into.
    base_name : str
        What the files call the model without adapter.
    """
    if isinstance(model, SharedTinyLora):
        config, tensors = (Path(folder) / name for name in SHARED_FILES)
        write_tensors(tensors, trainable(model))
        shapes = {name: list(shape) for name, shape in model.shapes.items()}
        write_json(config, {"base": base_name, "form": "shared", "shapes": shapes})
        return
    from peft import PeftModel

    assert isinstance(model, PeftModel)
    for settings in model.peft_config.values():
        settings.base_model_name_or_path = base_name
    # Without False PEFT would ask the hub whether the vocabulary was changed.
    model.save_pretrained(str(folder), save_embedding_layers=False)


def load_adapter(base: TTTTransformer, folder: str | Path) -> TTTTransformer:
    """Return a copy of the model with a saved adapter added to its weights.

    Parameters
    ----------
    base : TTTTransformer
        The network that the adapter was trained on; left as it is.
    folder : path
        What `save_adapter`, or PEFT, wrote.

    Raises
    ------
    AdapterError
        The folder holds no TinyLoRA adapter, or one for a model of another shape.
    ArtefactError
        A file is damaged.
    """
    folder = Path(folder)
    try:
        deltas = _saved_deltas(folder, linears(base))
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise AdapterError(
            f"adapter {folder} is damaged ({type(error).__name__} while it was read): save it again"
        ) from None
    return merged(base, deltas)


def _saved_deltas(folder: Path, layers: Mapping[str, nn.Linear]) -> dict[str, Tensor]:
    """Read the change of every layer, checked against the model's own layers."""
    if (folder / SHARED_FILES[0]).exists():
        config, tensors = (folder / name for name in SHARED_FILES)
        shapes = {name: tuple(shape) for name, shape in read_json(config)["shapes"].items()}
        _require_shapes(folder, shapes, layers, all_layers=True)
        return _shared_deltas(shapes, read_tensors(tensors))
    if (folder / PEFT_FILES[0]).exists():
        tensors = _peft_tensors(folder)
        shapes = {n: (len(t["B"]), t["A"].shape[1]) for n, t in tensors.items()}
        _require_shapes(folder, shapes, layers, all_layers=False)
        _require_weights(folder, tensors, layers)
        return _peft_deltas(folder, tensors, list(layers))
    raise AdapterError(
        f"{folder} is no adapter: it holds neither {PEFT_FILES[0]} (PEFT) nor {SHARED_FILES[0]}"
    )


def _peft_tensors(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Return A (r, in), B (out, r) and P (u, r, r) of every layer of PEFT's form."""
    kind = read_json(folder / PEFT_FILES[0]).get("peft_type")
    if kind != "TINYLORA":
        raise AdapterError(f"{folder} is an adapter of type {kind}: only TINYLORA can be read")
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_tensors(folder / PEFT_FILES[1]).items():
        name, _, part = key.removeprefix(_KEY).rpartition(".tinylora_")
        if part in ("A", "B", "P"):
            found.setdefault(name, {})[part] = tensor
    for name, parts in found.items():
        if len(parts) < 3:
            rule = "save it again with save_projection=True"
            raise AdapterError(f"{folder} lacks the random matrices of {name}: {rule}")
    return found


def _peft_deltas(
    folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], order: Sequence[str]
) -> dict[str, Tensor]:
    """Compute B (sum_i v_i P_i) A of every layer; neighbours may share v, as PEFT groups them."""
    saved = read_tensors(folder / PEFT_FILES[1])
    tying = read_json(folder / PEFT_FILES[0])["weight_tying"]
    names = [name for name in order if name in tensors]
    groups = max(1, round(len(names) * (1.0 - tying)))
    size = max(1, len(names) // groups)
    found = {}
    for place, name in enumerate(names):
        v_U = saved[f"base_model.tinylora_v.{min(place // size, groups - 1)}"]
        parts = tensors[name]
        found[name] = parts["B"] @ torch.einsum("u,uij->ij", v_U, parts["P"]) @ parts["A"]
    return found


def _shared_deltas(shapes: Shapes, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute s l r^T of every layer."""
    found = {}
    for name, (rows, columns) in shapes.items():
        left, right = (saved[f"{side}.{rows}x{columns}"] for side in ("left", "right"))
        found[name] = saved[f"scale.{_flat(name)}"] * torch.outer(left, right)
    return found


def _require_shapes(
    folder: Path, shapes: Shapes, layers: Mapping[str, nn.Linear], *, all_layers: bool
) -> None:
    """Raise `AdapterError` unless the model has the adapter's layers (and no other ones)."""
    ours = {name: tuple(layer.weight.shape) for name, layer in layers.items()}
    for name in sorted({**shapes, **ours} if all_layers else shapes):
        theirs, here = shapes.get(name), ours.get(name)
        if theirs != here:
            raise AdapterError(
                f"adapter {folder} is for a model of another shape: its {name} is "
                f"{_told(theirs)}, this model's is {_told(here)}: use the model it was trained on"
            )


def _told(shape: Sequence[int] | None) -> str:
    return "not there" if shape is None else " x ".join(map(str, shape))


def _require_weights(
    folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], layers: Mapping[str, nn.Linear]
) -> None:
    """Raise `AdapterError` unless A and B are singular vectors of the model's own weights.

    W A^T = U_r S_r^(3/2) = B S_r where they are; the diagonal of A A^T is S_r.
    """
    for name, parts in tensors.items():
        weight = layers[name].weight.detach().cpu().double()
        a, b = parts["A"].double(), parts["B"].double()
        expected = b * a.square().sum(1)
        if (weight @ a.T - expected).norm() > 0.01 * expected.norm():
            raise AdapterError(
                f"adapter {folder} was trained on other weights than this model's {name}: use "
                "the model it was trained on"
            )
