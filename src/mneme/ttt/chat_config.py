"""Settings of drawing tokens and of `mneme chat`."""

from __future__ import annotations

from dataclasses import dataclass

from mneme.core.config import require


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is drawn: temperature first, then the k likeliest, then the nucleus."""

    temperature: float
    """0 takes the likeliest token; above, draws from softmax(logits / temperature)."""
    top_k: int | None
    """Draw among this many likeliest tokens; null: all."""
    top_p: float | None
    """Draw among the likeliest tokens that reach this probability together, (0, 1]; null: all."""

    def __post_init__(self) -> None:
        require(
            0 <= self.temperature < float("inf"),
            "temperature",
            "finite, 0 or above",
            self.temperature,
        )
        require(self.top_k is None or self.top_k >= 1, "top_k", "null or at least 1", self.top_k)
        within = self.top_p is None or 0 < self.top_p <= 1
        require(within, "top_p", "null or in (0, 1]", self.top_p)


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """What `mneme chat` talks with and how much of the talk it reads again."""

    run: str
    """Fitted run that answers when `--run` names no other."""
    exchanges: int
    """Last exchanges (a turn and its reply) that open the next prompt; 0: none."""
    prompt_tokens: int
    """Longest prompt, tokens: the oldest exchanges are left out first, the newest turn never."""
    reply_tokens: int
    """Longest reply, tokens."""
    sampling: SamplingConfig
    """How a reply is drawn."""

    def __post_init__(self) -> None:
        require(self.exchanges >= 0, "exchanges", "at least 0", self.exchanges)
        for name in ("prompt_tokens", "reply_tokens"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
