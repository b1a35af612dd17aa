"""TemporalLoRA: domain adapters on a frozen language model, mixed per token by a Time Mixer.

Adapters sit above layer k and the mixer reads the output of layer k, so one pass is enough: the
gates are made on the way, are causal, do not depend on the adapters and fit a KV cache.
`gate_layer="last"` reads the final states of the bare model instead, which takes two passes, as
in PEFT's X-LoRA.

Legend: B batch, T position, D width, K domains (adapters), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mneme.core.artefacts import read_json, read_tensors, write_json, write_tensors
from mneme.core.config import build, plain
from mneme.nn.split import FAMILIES
from mneme.routing.config import MixerConfig
from mneme.routing.lowrank import Adapter, LowRankMix, factors, read_adapter, write_adapter
from mneme.routing.mixer import TimeMixer
from mneme.routing.sampling import Sampling, pick

GateLayer = int | Literal["last"]
Gate = Callable[[Tensor], tuple[Tensor, Any]]
"""States -> (gates (B, T, K), carry)."""
_LAYERS = dict.fromkeys(FAMILIES, "model.layers") | {"gpt2": "transformer.h"}
_IDENTITY = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")


@dataclass(frozen=True, kw_only=True)
class MixedOutput:
    """What one forward pass gives."""

    logits: Tensor
    """(B, T, V) next-token logits."""
    gates: Tensor
    """(B, T, K) mixing weights, each in 0..1 and 1 in sum (or what the caller gave)."""
    past_key_values: Any
    """KV cache for the next call, None unless asked for."""
    carry: Any
    """Memory of the mixer for the next call."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """A continued text."""

    ids: Tensor
    """(B, T + new) int64: prompt and continuation."""
    gates: Tensor | None
    """(B, T + new - 1, K): entry t mixed the prediction of token t + 1; None unless asked for."""


class TemporalLora(nn.Module):
    """K adapters on a frozen causal LM, mixed per token in one forward pass.

    The backbone's weights are shared, never copied or changed; outside `forward` it behaves as
    if nothing were attached, and `unmix` takes the hooks off.
    """

    def __init__(
        self,
        backbone: nn.Module,
        adapters: Mapping[str, Adapter | str | Path],
        *,
        mixer: nn.Module | None,
        gate_layer: GateLayer,
    ) -> None:
        """Attach adapters and mixer.

        Parameters
        ----------
        backbone : transformers.PreTrainedModel
            Frozen causal LM of the Llama, Mistral or GPT-2 family.
        adapters : mapping
            Domain name -> adapter, or its PEFT directory; the order is the order of the gates.
            Ranks, alphas and target modules may differ.
        mixer : Module or None
            `mixer(ids_BT, states_BTD, labels_BT=, carry=) -> (logits_BTK, carry)`; None: every
            forward is given its gates.
        gate_layer : int or "last"
            Layer k whose output the mixer reads (0 = embeddings); no adapter may sit on layers
            1..k. "last": the final normed states of the bare backbone, in a pass of their own.

        Raises
        ------
        ValueError
            Fewer than two adapters, an unknown family, adapters that do not fit or sit where the
            gate is not known yet.
        """
        super().__init__()
        if len(adapters) < 2:
            raise ValueError(f"mixing needs at least two adapters, got {list(adapters)}")
        self.backbone, self.mixer = backbone, mixer
        self.gate_layer: GateLayer = gate_layer
        self.adapters = {
            name: a if isinstance(a, Adapter) else read_adapter(a) for name, a in adapters.items()
        }
        updates = [factors(name, adapter) for name, adapter in self.adapters.items()]
        layers = _layers(backbone)
        if gate_layer != "last":
            _check_gate_layer(gate_layer, len(layers))
        lowest = min(_layer_index(backbone, path) for update in updates for path in update)
        if mixer is not None and gate_layer != "last" and lowest < gate_layer:
            raise ValueError(
                f"an adapter sits on layer {lowest + 1} but the gate is made from the output of "
                f"layer {gate_layer}: train adapters above gate_layer, or build the model in "
                "Python with gate_layer='last' (two passes)"
            )
        self._mix = LowRankMix(backbone, updates)
        self._mixed = True

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains in the order of the gates."""
        return tuple(self.adapters)

    def unmix(self) -> nn.Module:
        """Take every hook off and return the backbone, as it was before."""
        self._mix.detach_hooks()
        self._mixed = False
        return self.backbone

    def forward(
        self,
        ids_BT: Tensor,
        attention_mask: Tensor | None = None,
        gates_BTK: Tensor | None = None,
        past_key_values: Any = None,
        position_ids: Tensor | None = None,
        use_cache: bool = False,
        carry: Any = None,
        *,
        labels_BT: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> MixedOutput:
        """Predict next tokens with the mixed adapters.

        Parameters
        ----------
        ids_BT : Tensor
            Token ids, int64.
        attention_mask : Tensor or None
            As the backbone takes it; pad on the right (a mixer with memory reads every token).
        gates_BTK : Tensor or None
            Mixing weights to use instead of the mixer's.
        past_key_values, carry
            What the previous call returned (with `use_cache`); None at the beginning.
        position_ids : Tensor or None
            (1, T) or (B, T); None counts on from the cache. Gaps never cut attention.
        use_cache : bool
            Return `past_key_values`.
        labels_BT : Tensor or None
            Known domains, for the `ema_oracle` mixer.
        logits_to_keep : int
            Compute logits of the last positions only; 0 means of all.

        Returns
        -------
        MixedOutput

        Raises
        ------
        ValueError
            Neither gates nor mixer, gates of a wrong shape, or after `unmix`.
        """
        self._check_call(ids_BT, gates_BTK)
        if position_ids is not None and attention_mask is None and past_key_values is None:
            # Without a mask transformers reads gaps in position_ids as packed sequences and cuts
            # attention there.
            attention_mask = torch.ones_like(ids_BT)
        inputs = {
            "input_ids": ids_BT,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
        }
        if gates_BTK is not None:
            return self._mixed_pass(inputs, logits_to_keep, gates_BTK, carry)
        gate = partial(self._gate, ids_BT, labels_BT, carry)
        run = self._two_passes if self.gate_layer == "last" else self._one_pass
        return run(inputs, logits_to_keep, gate)

    @torch.no_grad()
    def generate(
        self,
        ids_BT: Tensor,
        *,
        new_tokens: int,
        temperature: float,
        top_p: float,
        generator: torch.Generator | None,
        use_cache: bool = True,
        return_gates: bool = False,
    ) -> Generated:
        """Continue texts of equal length by exactly `new_tokens` tokens.

        Parameters
        ----------
        ids_BT : Tensor
            Prompts, int64.
        new_tokens : int
            Tokens to add, at least 1.
        temperature, top_p, generator
            See `mneme.routing.sampling.Sampling`; temperature 0 is greedy.
        use_cache : bool
            False recomputes the whole text for every token (same result, slower).
        return_gates : bool
            Also return the mixing weights.

        Returns
        -------
        Generated

        Raises
        ------
        ValueError
            Settings out of range, or sampling without a generator.
        """
        if new_tokens < 1:
            raise ValueError(f"new_tokens must be at least 1, got {new_tokens}")
        sampling = Sampling(temperature=temperature, top_p=top_p, generator=generator)
        fed_BT, gates, cache, carry = ids_BT, [], None, None
        for _ in range(new_tokens):
            output = self(
                fed_BT, past_key_values=cache, carry=carry, use_cache=use_cache, logits_to_keep=1
            )
            next_B1 = pick(output.logits[:, -1], sampling)[:, None]
            ids_BT = torch.cat([ids_BT, next_B1], dim=1)
            if use_cache:
                fed_BT, cache, carry = next_B1, output.past_key_values, output.carry
                gates.append(output.gates)
            else:
                fed_BT, gates = ids_BT, [output.gates]
        return Generated(ids=ids_BT, gates=torch.cat(gates, dim=1) if return_gates else None)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write adapters, mixer and order into one directory that `from_pretrained` reads.

        `adapters/<name>/` are ordinary PEFT directories; the backbone itself is not written.

        Raises
        ------
        ValueError
            No mixer, or a domain name that cannot be a folder.
        """
        directory, mixer = Path(directory), self.mixer
        if not isinstance(mixer, TimeMixer):
            raise ValueError("only a model with a TimeMixer can be saved: calibrate one first")
        for name, adapter in self.adapters.items():
            if Path(name).name != name or name.startswith("."):
                raise ValueError(f"domain name {name!r} cannot be a folder name: rename it")
            write_adapter(directory / "adapters" / name, adapter)
        write_tensors(directory / "mixer.safetensors", mixer.state_dict())
        shape = {"width": mixer.width, "vocab": mixer.vocab, "domains": list(self.domains)}
        write_json(directory / "mixer.json", {"config": plain(mixer.config), **shape})
        record = {
            "domains": list(self.domains),
            "gate_layer": self.gate_layer,
            "backbone": _identity(self.backbone),
        }
        # Last: its presence says that the directory is complete.
        write_json(directory / "config.json", record)

    @classmethod
    def from_pretrained(cls, directory: str | Path, backbone: nn.Module) -> TemporalLora:
        """Reload what `save_pretrained` wrote onto `backbone`.

        Raises
        ------
        ValueError
            A missing or damaged file, or another backbone than the adapters were trained on.
        """
        directory = Path(directory)
        record = read_json(directory / "config.json")
        expected, got = record["backbone"], _identity(backbone)
        for key in _IDENTITY:
            if expected[key] != got[key]:
                raise ValueError(
                    f"{directory} was saved for a backbone with {key} {expected[key]!r}, but this "
                    f"one has {got[key]!r}: load {expected['name']!r}"
                )
        described = read_json(directory / "mixer.json")
        mixer = TimeMixer(
            build(MixerConfig, described["config"], where="mixer"),
            domains=len(record["domains"]),
            width=described["width"],
            vocab=described["vocab"],
        )
        mixer.load_state_dict(read_tensors(directory / "mixer.safetensors"))
        return cls(
            backbone,
            {name: directory / "adapters" / name for name in record["domains"]},
            mixer=mixer.to(next(backbone.parameters()).device).eval().requires_grad_(False),
            gate_layer=record["gate_layer"],
        )

    def _check_call(self, ids_BT: Tensor, gates_BTK: Tensor | None) -> None:
        if not self._mixed:
            raise ValueError("this model was unmixed: build a new TemporalLora on the backbone")
        if gates_BTK is None and self.mixer is None:
            raise ValueError("a model without mixer needs gates_BTK in every call")
        wanted = (*ids_BT.shape, len(self.adapters))
        if gates_BTK is not None and tuple(gates_BTK.shape) != wanted:
            raise ValueError(
                f"gates_BTK must be (batch, tokens, adapters) = {wanted}, got "
                f"{tuple(gates_BTK.shape)}"
            )

    def _gate(
        self, ids_BT: Tensor, labels_BT: Tensor | None, carry: Any, states_BTD: Tensor
    ) -> tuple[Tensor, Any]:
        assert self.mixer is not None
        logits_BTK, carry = self.mixer(ids_BT, states_BTD, labels_BT=labels_BT, carry=carry)
        return torch.softmax(logits_BTK.float(), dim=-1), carry

    def _mixed_pass(
        self, inputs: dict[str, Any], keep: int, gates_BTK: Tensor, carry: Any
    ) -> MixedOutput:
        with self._mix.using(gates_BTK):
            output = self.backbone(**inputs, logits_to_keep=keep)
        cache = output.past_key_values if inputs["use_cache"] else None
        return MixedOutput(
            logits=output.logits, gates=gates_BTK, past_key_values=cache, carry=carry
        )

    def _one_pass(self, inputs: dict[str, Any], keep: int, gate: Gate) -> MixedOutput:
        made: list[tuple[Tensor, Any]] = []

        def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            made.append(gate(args[0] if args else kwargs["hidden_states"]))
            self._mix.set_gates(made[0][0])

        assert self.gate_layer != "last"
        above = _layers(self.backbone)[self.gate_layer]
        hook = above.register_forward_pre_hook(read, with_kwargs=True)
        with hook, self._mix.using(None):
            output = self.backbone(**inputs, logits_to_keep=keep)
        cache = output.past_key_values if inputs["use_cache"] else None
        gates_BTK, carry = made[0]
        return MixedOutput(
            logits=output.logits, gates=gates_BTK, past_key_values=cache, carry=carry
        )

    def _two_passes(self, inputs: dict[str, Any], keep: int, gate: Gate) -> MixedOutput:
        bare_cache, mixed_cache = inputs["past_key_values"] or (None, None)
        decoder: Any = self.backbone.base_model
        bare = decoder(**inputs | {"past_key_values": bare_cache})
        gates_BTK, carry = gate(bare.last_hidden_state)
        inputs = inputs | {"past_key_values": mixed_cache}
        output = self._mixed_pass(inputs, keep, gates_BTK, carry)
        cache = (bare.past_key_values, output.past_key_values) if inputs["use_cache"] else None
        return replace(output, past_key_values=cache)


def _layers(backbone: nn.Module) -> nn.ModuleList:
    return backbone.get_submodule(_layers_path(backbone))  # type: ignore[return-value]


def _layers_path(backbone: nn.Module) -> str:
    family = getattr(getattr(backbone, "config", None), "model_type", type(backbone).__name__)
    if family not in _LAYERS:
        raise ValueError(
            f"a backbone of type {family!r} cannot be mixed: choose one of the families "
            f"{', '.join(_LAYERS)}"
        )
    return _LAYERS[family]


def _layer_index(backbone: nn.Module, path: str) -> int:
    """Return the 0-based decoder layer that holds the module at `path`."""
    root = _layers_path(backbone)
    head, _, _ = path.removeprefix(f"{root}.").partition(".")
    if not path.startswith(f"{root}.") or not head.isdigit():
        raise ValueError(
            f"an adapter targets {path!r}: only linears inside decoder layers ({root}.<n>) can be "
            "mixed, so choose other target_modules"
        )
    return int(head)


def _check_gate_layer(gate_layer: int, layers: int) -> None:
    if not 0 <= gate_layer < layers:
        raise ValueError(
            f"gate_layer must be in 0..{layers - 1} (so that a layer is left above it) or 'last', "
            f"got {gate_layer}"
        )


def _identity(backbone: Any) -> dict[str, Any]:
    config = backbone.config
    return {"name": config.name_or_path, **{key: getattr(config, key) for key in _IDENTITY}}
