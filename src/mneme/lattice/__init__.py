"""Room `lattice`: can a teacher's embedding pass through a small lattice and still find its answer?

Question
    Can the embedding of a language model be squeezed up to 18 times onto a 15 x 15 surface and
    processed by a 15 x 15 x 11 cellular lattice so that a question finds its answer, and does the
    lattice contribute anything?

Method
    Embeddings of question-answer pairs (`teachers`, `prepare`) go through one of four adapters
    (`adapter`) and a three-dimensional neural cellular automaton (`automaton`), trained so that a
    question's surface lies next to its answer's (`losses`, `fit`). Everything is read as retrieval
    among held-out answers (`retrieval`), beside codecs without training (`baselines`), networks
    without a lattice, and the source's own recipe (`original`), which collapses.

Sources
    Stage 3.1.3, Meta-LLaMA-3-8B integration (2025), the report whose run is rebuilt.
    Mordvintsev, Randazzo, Niklasson and Levin (2020), Growing neural cellular automata.
    Oord, Li and Vinyals (2018), Representation learning with contrastive predictive coding.
    Wang and Isola (2020), Understanding contrastive representation learning.
"""
