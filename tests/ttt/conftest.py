"""Tiny models in float64, and a slow reader that shares nothing with the library but weights."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from mneme.core.seeds import torch_generator
from mneme.ttt.config import InnerConfig, ModelConfig
from mneme.ttt.model import build_model

VOCABULARY = 7


def make_config(**changes):
    values = {"blocks": 3, "width": 8, "heads": 2, "hidden": 10, "ttt_blocks": 2, "window": 4}
    return ModelConfig(**{**values, "rope_base": 100.0, "qk_norm": True, "tied": False, **changes})


def make_model(arm="second", *, vocabulary=VOCABULARY, seed=0, **changes):
    generator = torch_generator(seed, "model")
    model = build_model(make_config(**changes), arm, vocabulary=vocabulary, generator=generator)
    return model.double()


def make_tokens(batch, length, *, vocabulary=VOCABULARY, seed=0):
    generator = torch_generator(seed, "tokens")
    return torch.randint(0, vocabulary, (batch, length), generator=generator)


def make_inner(**changes):
    return InnerConfig(**{"chunk": 4, "learning_rate": 0.5, "clip": 1e9, **changes})


@pytest.fixture(scope="session")
def config_of():
    """Return a maker of tiny model settings: 3 blocks (2 TTT), width 8, window 4."""
    return make_config


@pytest.fixture(scope="session")
def model_of():
    """Return a maker of tiny float64 models by arm."""
    return make_model


@pytest.fixture(scope="session")
def tokens_of():
    """Return a maker of random tokens (batch, length)."""
    return make_tokens


@pytest.fixture(scope="session")
def inner_of():
    """Return a maker of inner loops: chunk 4, lr .5, no clip."""
    return make_inner


@pytest.fixture(scope="session")
def slow_read():
    """Return the slow reader."""
    return read_slowly


def read_slowly(model, tokens_T, inner, *, weights=None, order="none", flush=False):
    """Read one sample chunk by chunk with torch.func.grad; nothing of the model's code runs.

    Returns nll (list of scalars), fast weights by name, norms, logits (T - 1, V).
    """
    weights = dict(model.named_parameters()) if weights is None else weights
    names = [f"{name}.weight" for name in model.fast_names()]
    fast = {name: weights[name] for name in names}
    caches = [([], []) for _ in model.blocks]
    out = SimpleNamespace(nll=[], norms=[], logits=[])
    for start in range(0, len(tokens_T) - 1, inner.chunk):
        inputs = tokens_T[:-1][start : start + inner.chunk]
        targets = tokens_T[1:][start : start + inner.chunk]

        def loss(fast, inputs=inputs, targets=targets, start=start, caches=caches):
            own = {**weights, **fast}
            logits, grown = slow_logits(model, own, inputs, start=start, caches=caches)
            nll = F.cross_entropy(logits, targets, reduction="none")
            return nll.mean(), (nll, logits, grown)

        if names:
            gradients, (nll, logits, caches) = torch.func.grad(loss, has_aux=True)(fast)
        else:
            _, (nll, logits, caches) = loss(fast)
        out.nll += nll.unbind()
        out.logits.append(logits)
        if names and (flush or len(inputs) == inner.chunk):
            if order != "second":
                gradients = {name: g.detach() for name, g in gradients.items()}
            norm = torch.stack([g.pow(2).sum() for g in gradients.values()]).sum().sqrt()
            factor = inner.learning_rate * (inner.clip / norm if norm > inner.clip else 1.0)
            fast = {name: w - factor * gradients[name] for name, w in fast.items()}
            out.norms.append(norm.detach())
    out.nll, out.logits = torch.stack(out.nll), torch.cat(out.logits)
    out.fast = {name.removesuffix(".weight"): w for name, w in fast.items()}
    return out


def slow_logits(model, weights, tokens_T, *, start, caches):
    """Logits (T, V) of one sample by loops over heads and positions, at absolute positions."""
    config = model.config
    width = config.width // config.heads

    def rms(x, name):
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"{name}.weight"]

    def turned(x, position):
        if config.rope_base is None:
            return x
        angle = [position * config.rope_base ** (-2 * e / width) for e in range(width // 2)]
        first, second = x[..., : width // 2], x[..., width // 2 :]
        cosine, sine = (x.new_tensor([f(a) for a in angle]) for f in (math.cos, math.sin))
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)

    def attention(x, at, keys, values):
        q, k, v = (
            (x @ weights[f"{at}.{part}.weight"].T).unflatten(-1, (config.heads, width))
            for part in "qkv"
        )
        if config.qk_norm:
            q, k = rms(q, f"{at}.q_norm"), rms(k, f"{at}.k_norm")
        keys, values = [*keys, *k.unbind()], [*values, *v.unbind()]
        out = []
        for i in range(len(x)):
            place = start + i
            first = 0 if model.arm == "full" else max(0, place - config.window + 1)
            seen = torch.stack([turned(keys[j], j) for j in range(first, place + 1)])
            scores = (turned(q[i], place) * seen).sum(-1) / math.sqrt(width)
            mix = scores.softmax(0)[:, :, None] * torch.stack(values[first : place + 1])
            out.append(mix.sum(0).flatten())
        return torch.stack(out) @ weights[f"{at}.o.weight"].T, (keys, values)

    x = weights["embedding.weight"][tokens_T] * math.sqrt(config.width)
    grown = []
    for index, (keys, values) in enumerate(caches):
        at = f"blocks.{index}"
        y, cache = attention(rms(x, f"{at}.pre.attention"), f"{at}.attention", keys, values)
        grown.append(cache)
        x = x + rms(y, f"{at}.post.attention")
        two = model.arm in ("two_mlp", "first", "second")
        two = two and index >= config.blocks - config.ttt_blocks
        for name in ("mlp_ttt", "mlp_static") if two else ("mlp",):
            gate, up, down = (weights[f"{at}.{name}.{p}.weight"] for p in ("gate", "up", "down"))
            y = rms(x, f"{at}.pre.{name}")
            y = (F.silu(y @ gate.T) * (y @ up.T)) @ down.T
            x = x + rms(y, f"{at}.post.{name}")
    head = weights["embedding.weight" if config.tied else "head.weight"]
    return rms(x, "norm") @ head.T, grown
