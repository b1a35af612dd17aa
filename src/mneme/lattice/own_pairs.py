"""Eight questions about machine learning with their answers, in words of our own.

The source trained on eight such pairs and did not publish them. They are far too few to find
anything out by, but what the source reads off its own can be read off these: how similar a question
is to its answer, and, what was not read there, to the answers of the other seven.
"""

from __future__ import annotations

from mneme.lattice.prepare import Pair

EIGHT = "eight"
"""Name of this set beside the splits of prepared pairs."""

OWN_PAIRS = tuple(
    Pair("own", question, answer)
    for question, answer in (
        (
            "Why does a network with millions of weights not just learn its examples by heart?",
            "Often it does; regularisation, early stopping and sheer amounts of data make rules "
            "that carry over cheaper than a list.",
        ),
        (
            "What is a learning rate?",
            "The length of the step that an optimiser takes down the gradient.",
        ),
        (
            "How does attention decide where to look?",
            "Each position compares its query with all keys and averages the values by how well "
            "they match.",
        ),
        (
            "When is a validation set spoilt?",
            "As soon as choices were made on it: from then on it flatters the model it chose.",
        ),
        (
            "What do embeddings of words have to do with meaning?",
            "Words that stand in the same surroundings get neighbouring vectors, so distances "
            "come to reflect use.",
        ),
        (
            "Why are gradients clipped in training?",
            "One freak batch could otherwise throw the weights far away from everything learned.",
        ),
        (
            "What sets a cellular automaton apart from other networks?",
            "All cells obey one rule and see only their neighbours; whatever is global has to "
            "emerge step by step.",
        ),
        (
            "How can a big model teach a small one?",
            "The small one imitates the probabilities of the big one, which say more than the "
            "right label alone.",
        ),
    )
)
"""The pairs; all of one group."""


def own_columns() -> dict[str, list[str]]:
    """Return the texts by the names of their embeddings: `eight_questions`, `eight_answers`."""
    return {
        f"{EIGHT}_{side}s": [getattr(pair, side) for pair in OWN_PAIRS]
        for side in ("question", "answer")
    }
