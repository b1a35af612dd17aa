"""One training step of SpacingMDN against a plain model of nanoGPT's shape, tokens per second.

The plain side is written here: pre-norm blocks, one linear layer for queries, keys and values,
`scaled_dot_product_attention` with `is_causal`, GELU MLP four times as wide, learned positions,
everything as torch runs it. Both hold the same weights: loss and gradients are compared first. A
step is forward, mixture likelihood, backward, clipping, fused AdamW on windows of 255 spacings,
32 of them where a shape's name does not say otherwise. `3x64x4 batch 4` is what the default trains,
`6x256x8` the shape of gpu.yaml (on 8 windows: its batch of 512 is for an accelerator). `ours` runs
as the pipeline runs it (linear layers through oneDNN); `ours_mkl` does not; `ours_rope` has rotary
positions instead of learned ones; `ours_prefix` reads 8 slots besides; `ours_distance` turns values
by distance.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import harness
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mneme.core.seeds import torch_generator
from mneme.nn.onednn import OneDNNLinear
from mneme.zeta.config import ModelConfig
from mneme.zeta.model import SpacingMDN

SHAPES = ((2, 64, 2), (4, 64, 2), (3, 96, 3), (4, 128, 4))  # layers, width, heads
BATCH = 32
CASES = (*((shape, BATCH) for shape in SHAPES), ((3, 64, 4), 4), ((6, 256, 8), 8))
QUICK = CASES[4:5]
WINDOW, COMPONENTS, SLOTS, FLOOR, ROUNDS = 256, 8, 8, 1e-3, 5


class PlainBlock(nn.Module):
    """Attention and MLP, each after a norm, each added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream after this block."""
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(d, dim=2)
        q, k, v = (y.view(b, t, self.heads, d // self.heads).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).contiguous().view(b, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Plain(nn.Module):
    """The whole model; `forward` returns the loss."""

    def __init__(self, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(1, width), nn.Embedding(WINDOW, width)
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3 * COMPONENTS)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean negative log likelihood of y, nats."""
        h = self.embed((x - 1).unsqueeze(-1)) + self.place(torch.arange(x.shape[1]))
        for block in self.blocks:
            h = block(h)
        logits, means, scales = self.head(self.norm(h)).chunk(3, dim=-1)
        scales = F.softplus(scales) + FLOOR
        z = (y.unsqueeze(-1) - means) / scales
        log_normal = -0.5 * z**2 - scales.log() - 0.5 * math.log(2 * math.pi)
        return -torch.logsumexp(F.log_softmax(logits, dim=-1) + log_normal, dim=-1).mean()

    def copy(self, model: SpacingMDN) -> Plain:
        """Take the weights of ours, which have the same names but for two."""
        names = {"place": "place.weight"}
        state = {
            names.get(n, n.replace("attention.", "")): p for n, p in model.state_dict().items()
        }
        self.load_state_dict(state)
        return self


def ours(shape: tuple[int, int, int], *, arm: Any = "none", position: str) -> SpacingMDN:
    layers, width, heads = shape
    config = ModelConfig(
        layers=layers,
        heads=heads,
        width=width,
        components=COMPONENTS,
        window=WINDOW,
        slots=SLOTS,
        scale_floor=FLOOR,
    )
    generator = torch_generator(0, "benchmark")
    return SpacingMDN(
        config, arm=arm, position=position, slot_id=False, extra=0, generator=generator
    )


def stepper(model: nn.Module, loss: Callable[[], Tensor], *, onednn: bool) -> Callable[..., float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)

    def step(*, update: bool = True) -> float:
        optimizer.zero_grad(set_to_none=True)
        with OneDNNLinear() if onednn else nullcontext():
            value = loss()
        value.backward()
        if update:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return value.item()

    return step


def sides_of(shape: tuple[int, int, int], x: Tensor, y: Tensor) -> dict[str, Any]:
    """Return name -> (model, step) of every side for one shape."""

    def likelihood(model: SpacingMDN) -> Callable[[], Tensor]:
        level_B = torch.full((len(x),), 12.0) if model.distance else None
        return lambda: -model(x, level_B=level_B).mixture.log_prob(y).mean()

    learned = ours(shape, position="learned")
    plain = Plain(*shape).copy(learned)
    made: dict[str, tuple[nn.Module, Callable[..., float]]] = {
        "plain": (plain, stepper(plain, lambda: plain(x, y), onednn=False))
    }
    others = {"ours_mkl": ours(shape, position="learned"), "ours": learned}
    others["ours_rope"] = ours(shape, position="rope")
    others["ours_distance"] = ours(shape, position="distance")
    others["ours_prefix"] = ours(shape, arm="prefix", position="rope")
    for name, model in others.items():
        made[name] = model, stepper(model, likelihood(model), onednn=name != "ours_mkl")
    return made


def compare(made: dict[str, Any], shape: str) -> dict[str, float]:
    """Check that the plain side and ours have the same loss and the same gradients."""
    (plain, plain_step), (model, step) = made["plain"], made["ours"]
    losses = [torch.tensor(side(update=False)) for side in (step, plain_step)]
    facts = {f"loss_difference_{shape}": harness.same(f"loss {shape}", *losses, atol=1e-4)}
    theirs = dict(plain.named_parameters())
    grads = [
        torch.cat([p.grad.flatten() for _, p in pairs])
        for pairs in (
            [(n, p) for n, p in model.named_parameters()],
            [
                (n, theirs["place.weight" if n == "place" else n.replace("attention.", "")])
                for n, _ in model.named_parameters()
            ],
        )
    ]
    largest = grads[1].abs().max()
    name = f"gradients / largest {shape}"
    facts[f"gradient_difference_{shape}"] = harness.same(
        name, grads[0] / largest, grads[1] / largest, atol=1e-3
    )
    return facts


def main() -> None:
    options = harness.arguments(__doc__ or "")
    drawn = 2 * torch.rand(BATCH, WINDOW, generator=torch_generator(0, "spacings"))
    rounds = options.rounds or (2 if options.quick else ROUNDS)
    times, targets, facts = {}, [], {"tokens": {}, "tokens_per_s": {}}
    for shape, batch in QUICK if options.quick else CASES:
        label = "x".join(str(size) for size in shape)
        label += "" if batch == BATCH else f" batch {batch}"
        x, y = drawn[:batch, :-1].contiguous(), drawn[:batch, 1:].contiguous()
        made = sides_of(shape, x, y)
        facts |= compare(made, label)
        spent = harness.take_turns(
            {f"{name} {label}": step for name, (_, step) in made.items()}, rounds=rounds, warmup=1
        )
        times |= spent
        facts["tokens"] |= dict.fromkeys(spent, x.numel())
        for name in made:
            if name != "plain":
                target = {"ours": f"{name} {label}", "against": f"plain {label}"}
                targets.append(
                    harness.Target(name=f"{name} / plain, {label}", at_least=1.0, **target)
                )
    for side, spent in times.items():
        facts["tokens_per_s"][side] = {
            kind: round(facts["tokens"][side] / statistics.median(s[i] for s in spent))
            for i, kind in enumerate(("wall", "cpu"))
        }
        print(f"{side:>24}: {facts['tokens_per_s'][side]} tokens/s")
    harness.report("zeta_training", times=times, targets=targets, facts=facts, quick=options.quick)


if __name__ == "__main__":
    main()
