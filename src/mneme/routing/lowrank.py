"""Several LoRA adapters on one frozen model at once, mixed per token in the same forward pass.

    y = W x + B_cat ((A_cat x) * repeat(g_i, r_i)),    B_cat = [scale_1 B_1, ..., scale_K B_K]

Ranks are concatenated over adapters, and linears that read the same input (q/k/v, gate/up) share
one A product. The weights of the model are never touched: forward hooks add the update in place.

Legend: B batch, T position, N = B T tokens, D input width, O output width, R concatenated rank,
K adapters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from mneme.core.artefacts import read_json, read_tensors, write_json, write_tensors

_SHARING = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_PREFIX = "base_model.model."
_BASE_CHANGING = ("pissa", "olora", "corda", "loftq")
_PLAIN = {
    "use_dora": (None, False),
    "bias": (None, "none"),
    "lora_bias": (None, False),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (None, False),
    "use_bdlora": (None, False),
    "kasa_config": (None,),
    "arrow_config": (None,),
    "monteclora_config": (None,),
}


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One LoRA adapter in PEFT's own format."""

    config: Mapping[str, Any]
    """Content of `adapter_config.json`."""
    tensors: Mapping[str, Tensor]
    """Content of `adapter_model.safetensors`: `<module>.lora_A.weight` (r, D), `lora_B` (O, r)."""


@dataclass(frozen=True, kw_only=True)
class Factor:
    """The update scale B A of one adapter to one linear."""

    A_RD: Tensor
    """Down projection, rank r by input width."""
    B_OR: Tensor
    """Up projection, output width by rank r."""
    scale: float
    """alpha / r, or alpha / sqrt(r) for rank-stabilised adapters."""


def read_adapter(directory: str | Path) -> Adapter:
    """Read an ordinary PEFT directory; raises `ArtefactError` when a file is missing or damaged."""
    directory = Path(directory)
    return Adapter(
        config=read_json(directory / "adapter_config.json"),
        tensors=read_tensors(directory / "adapter_model.safetensors"),
    )


def write_adapter(directory: str | Path, adapter: Adapter) -> None:
    """Write an ordinary PEFT directory, which `PeftModel.from_pretrained` loads."""
    directory = Path(directory)
    write_json(directory / "adapter_config.json", dict(adapter.config))
    write_tensors(directory / "adapter_model.safetensors", adapter.tensors)


def factors(name: str, adapter: Adapter) -> dict[str, Factor]:
    """Split an adapter into one low-rank update per module.

    Parameters
    ----------
    name : str
        Adapter name, for messages.
    adapter : Adapter
        Plain LoRA: no DoRA, biases, replaced modules or initialisers that change the base.

    Returns
    -------
    dict
        Module path inside the causal LM (`model.layers.0.self_attn.q_proj`) -> update.

    Raises
    ------
    ValueError
        The adapter is not plain LoRA, or its tensors are incomplete.

    References
    ----------
    Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, section 4.1.
    Kalajdzievski 2023, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA.
    """
    _check_plain(name, adapter.config)
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in adapter.tensors.items():
        found = re.fullmatch(rf"(?:{re.escape(_PREFIX)})?(.+)\.lora_(A|B)\.weight", key)
        if found is None:
            raise ValueError(f"adapter {name!r} holds {key!r}, which is no LoRA factor: drop it")
        halves.setdefault(found[1], {})[found[2]] = tensor
    if not halves:
        raise ValueError(f"adapter {name!r} holds no LoRA factors: train it before mixing")
    updates = {}
    for path, pair in halves.items():
        if len(pair) < 2 or pair["A"].shape[0] != pair["B"].shape[1]:
            raise ValueError(f"adapter {name!r} has no matching lora_A and lora_B at {path!r}")
        scale = _scale(adapter.config, path, pair["A"].shape[0])
        updates[path] = Factor(A_RD=pair["A"], B_OR=pair["B"], scale=scale)
    return updates


class LowRankMix(nn.Module):
    """K adapters hooked onto a frozen model; silent until `using` sets gates."""

    def __init__(self, model: nn.Module, adapters: Sequence[Mapping[str, Factor]]) -> None:
        """Attach `adapters` (module path -> update, one mapping each) to the linears of `model`.

        Raises
        ------
        ValueError
            A module that the model lacks, or widths that do not fit.
        """
        super().__init__()
        self.gates: GateColumns | None = None
        self.inputs = nn.ModuleList()
        self._handles: list[Any] = []
        for paths in _shared_inputs(adapters):
            linears = [_linear(model, path) for path in paths]
            parts = [[(k, a[path]) for k, a in enumerate(adapters) if path in a] for path in paths]
            shared = SharedInput(paths, linears, parts)
            self.inputs.append(shared)
            for i, linear in enumerate(linears):
                self._handles.append(linear.register_forward_hook(partial(self._add, shared, i)))

    @contextmanager
    def using(self, gates_BTK: Tensor | None) -> Iterator[None]:
        """Mix by `gates_BTK` inside the block; None waits for `set_gates` during the pass."""
        try:
            if gates_BTK is not None:
                self.set_gates(gates_BTK)
            yield
        finally:
            self.gates = None
            for shared in self.inputs:
                shared.memo = None  # type: ignore[assignment]

    def set_gates(self, gates_BTK: Tensor) -> None:
        """Let every adapted linear called from now on mix by `gates_BTK`."""
        self.gates = GateColumns(gates_BTK)

    def detach_hooks(self) -> None:
        """Take every hook off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _add(
        self, shared: SharedInput, i: int, _: nn.Module, args: tuple[Any, ...], y: Tensor
    ) -> None:
        if self.gates is not None:
            shared.add(i, args[0], y, self.gates)


class SharedInput(nn.Module):
    """Adapted linears that read one input: their A's as one matrix, their B's apart."""

    def __init__(
        self,
        paths: Sequence[str],
        linears: Sequence[nn.Module],
        parts: Sequence[Sequence[tuple[int, Factor]]],
    ) -> None:
        super().__init__()
        self.memo: tuple[Tensor, Tensor] | None = None
        self.spans: list[tuple[int, int]] = []
        downs, columns = [], []
        for path, linear, part in zip(paths, linears, parts, strict=True):
            weight = linear.weight
            assert isinstance(weight, Tensor)
            _check_widths(path, linear, part)
            start = len(columns)
            for k, factor in part:
                downs.append(factor.A_RD.to(weight))
                columns += [k] * factor.A_RD.shape[0]
            up = torch.cat([factor.scale * factor.B_OR.float() for _, factor in part], dim=1)
            up_RO = rearrange(up, "O R -> R O").contiguous().to(weight)
            self.register_buffer(f"up{len(self.spans)}", up_RO, persistent=False)
            self.spans.append((start, len(columns)))
        self.register_buffer("down", torch.cat(downs), persistent=False)
        self.columns = tuple(columns)

    def add(self, i: int, x: Tensor, y: Tensor, gates: GateColumns) -> None:
        """Add the gated update of linear `i` for input `x` to its output `y`, in place."""
        if self.memo is None or self.memo[0] is not x:
            down_RD = self._buffers["down"]
            assert down_RD is not None
            z_NR = functional.linear(x.reshape(-1, x.shape[-1]), down_RD)
            self.memo = (x, z_NR * gates.columns(self.columns, z_NR))
        start, stop = self.spans[i]
        up_RO = self._buffers[f"up{i}"]
        assert up_RO is not None
        y.view(-1, y.shape[-1]).addmm_(self.memo[1][:, start:stop], up_RO)
        if i == len(self.spans) - 1:
            self.memo = None


class GateColumns:
    """The gates of one pass, repeated over ranks once per layout rather than once per layer."""

    def __init__(self, gates_BTK: Tensor) -> None:
        self.gates_NK = rearrange(gates_BTK, "B T K -> (B T) K")
        self.cache: dict[Any, Tensor] = {}

    def columns(self, layout: tuple[int, ...], like: Tensor) -> Tensor:
        """Return gates (N, R): column c is the gate of adapter `layout[c]`, typed as `like`."""
        key = (layout, like.device, like.dtype)
        if key not in self.cache:
            index_R = torch.tensor(layout, device=self.gates_NK.device)
            self.cache[key] = self.gates_NK.index_select(1, index_R).to(like)
        return self.cache[key]


def _shared_inputs(adapters: Sequence[Mapping[str, Factor]]) -> list[list[str]]:
    """Group module paths by the input they read, in order of first appearance."""
    groups: dict[tuple[str, int | str], list[str]] = {}
    for path in dict.fromkeys(path for adapter in adapters for path in adapter):
        parent, _, leaf = path.rpartition(".")
        family = next((n for n, leaves in enumerate(_SHARING) if leaf in leaves), leaf)
        groups.setdefault((parent, family), []).append(path)
    order = {leaf: n for leaves in _SHARING for n, leaf in enumerate(leaves)}
    # In the order of calls, so that the last one called is the one that frees the product.
    return [sorted(g, key=lambda p: order.get(p.rpartition(".")[2], 0)) for g in groups.values()]


def _linear(model: nn.Module, path: str) -> nn.Module:
    try:
        linear = model.get_submodule(path)
    except AttributeError:
        raise ValueError(
            f"an adapter targets {path!r}, which the backbone lacks: mix adapters of this backbone"
        ) from None
    weight = getattr(linear, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        raise ValueError(f"an adapter targets {path!r}, which is no linear with float weights")
    return linear


def _check_widths(path: str, linear: Any, part: Sequence[tuple[int, Factor]]) -> None:
    # GPT-2's Conv1D stores (D, O), a linear (O, D); the factors are (r, D) and (O, r) for both.
    shape = tuple(linear.weight.shape)
    out_in = shape if isinstance(linear, nn.Linear) else shape[::-1]
    for _, factor in part:
        got = (factor.B_OR.shape[0], factor.A_RD.shape[1])
        if got != out_in:
            raise ValueError(
                f"an adapter of {path!r} maps {got[1]} -> {got[0]} but the backbone's linear maps "
                f"{out_in[1]} -> {out_in[0]}: mix adapters of this backbone"
            )


def _check_plain(name: str, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        kind = config.get("peft_type")
        raise ValueError(f"adapter {name!r} has peft_type {kind!r}: only LORA can be mixed")
    if "lora_alpha" not in config:
        raise ValueError(f"adapter {name!r} has no lora_alpha in adapter_config.json: add it")
    for key, allowed in _PLAIN.items():
        if config.get(key) not in allowed:
            raise ValueError(
                f"adapter {name!r} has {key} = {config[key]!r}: only plain LoRA can be mixed"
            )
    init = str(config.get("init_lora_weights", True)).lower()
    if init.startswith(_BASE_CHANGING):
        raise ValueError(
            f"adapter {name!r} has init_lora_weights = {init!r}, which changes the base weights: "
            "convert it to plain LoRA on saving (path_initial_model_for_weight_conversion)"
        )


def _scale(config: Mapping[str, Any], path: str, rank: int) -> float:
    alpha = float(_pattern(config.get("alpha_pattern") or {}, path, config["lora_alpha"]))
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank


def _pattern(patterns: Mapping[str, Any], path: str, otherwise: Any) -> Any:
    """Return the first entry whose key, a regular expression, matches the end of the path."""
    for key, value in patterns.items():
        if re.match(rf"(.*\.)?({key})$", path):
            return value
    return otherwise
