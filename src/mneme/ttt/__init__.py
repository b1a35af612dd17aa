"""Room `ttt`: end-to-end test-time training.

Question: does a model that trains its own fast weights on what it reads predict what follows
better, beyond its attention window, and because of that context?

Method: a transformer with sliding-window attention carries, in its last blocks, an MLP that takes
one step of gradient descent after every chunk of tokens; training differentiates through those
steps. Controls read other contexts in place of a document's own.

Sources: Tandon et al. 2025 (end-to-end test-time training for long context), Sun et al. 2024
(learning to learn at test time), Krause et al. 2018 (dynamic evaluation), and source document 2.
"""
