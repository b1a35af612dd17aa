"""The memory grid: cells, control contexts, and losses against one prompt at a time."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from mneme.core.config import ConfigError
from mneme.core.seeds import numpy_generator
from mneme.ttt import grid
from mneme.ttt.config import InnerConfig
from mneme.ttt.fast import FastWeights
from mneme.ttt.grid import adapted, measure_grid
from mneme.ttt.grid_config import GridConfig, GridRecipeConfig, SweepConfig
from mneme.ttt.grid_sweep import sweep
from mneme.ttt.grid_texts import CONTROLS, Refused, contexts_of, grid_texts
from mneme.ttt.inner import InnerLossError, ReaderState, read
from mneme.ttt.statements import STATEMENTS, pieces

WORDS = 23
GRID = {"prompts": 3, "adapt_ratios": (0.5, 0.9), "repeats": (2, 4), "max_tokens": 48}


def by_word(text):
    """Return an id a word or sign, so that statements are short."""
    found = re.findall(r" ?\w+|[.\n]", text)
    return np.array([zlib.crc32(word.encode()) % WORDS for word in found], np.int32)


@pytest.fixture(scope="module")
def texts():
    return grid_texts(by_word, **GRID)


def drawn(texts, kinds=CONTROLS, *, trials=1, vocabulary=WORDS, seed=0):
    generator = numpy_generator(seed, "contexts")
    ids = np.arange(vocabulary)
    return contexts_of(texts, kinds, trials=trials, vocabulary=ids, generator=generator)


def contexts_by_cell(texts, contexts):
    """Yield (context, cell, what the cell adapts to, the own context of it)."""
    for context in contexts:
        for cell, cut in enumerate(texts.adapted_CN[:, context.prompt].tolist()):
            yield context, cell, context.tokens_T[:cut], texts.stream(context.prompt, cut)


# --- statements and cells


def test_statements_are_many_short_and_share_no_sentence():
    assert len(STATEMENTS) == 20
    assert {len(statement) for statement in STATEMENTS} == {3}
    sentences = [sentence for statement in STATEMENTS for sentence in statement]
    assert len(set(sentences)) == len(sentences)
    assert all(re.fullmatch(r"[A-Z][A-Za-z ]+\.", sentence) for sentence in sentences)
    assert max(len("".join(pieces(statement))) for statement in STATEMENTS) <= 100


def test_the_stream_is_the_repeated_text_and_one_statement_is_its_period():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    whole = ["".join(pieces(statement)) for statement in STATEMENTS]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(whole, trainer)
    made = grid_texts(
        lambda text: tokenizer.encode(text).ids,
        prompts=20,
        adapt_ratios=(0.5,),
        repeats=(7,),
        max_tokens=10_000,
    )
    for prompt, text in enumerate(whole):
        length = int(made.length_CN[0, prompt])
        assert made.stream(prompt, length).tolist() == tokenizer.encode(text * 7).ids
        ends = np.flatnonzero(made.ends_at(prompt, length)) + 1
        pieces_read = [made.stream(prompt, length)[a:b] for a, b in pairwise([0, *ends])]
        sentences = [tokenizer.decode(piece.tolist()) for piece in pieces_read]
        assert sentences == pieces(STATEMENTS[prompt]) * 7


def test_cells_are_cut_where_the_config_says(texts):
    sizes = [len(period) for period in texts.periods]
    assert texts.cells == ((0.5, 2), (0.5, 4), (0.9, 2), (0.9, 4))
    assert texts.length_CN.tolist() == [
        [min(times * size, 48) for size in sizes] for _, times in texts.cells
    ]
    assert texts.adapted_CN[1].tolist() == [24, 24, 24]
    assert texts.adapted_CN[3].tolist() == [43, 43, 43]
    assert not texts.refused


def test_cells_that_truncation_makes_copies_are_refused():
    made = grid_texts(by_word, **{**GRID, "repeats": (2, 4, 8), "max_tokens": 38})
    sizes = [len(period) for period in made.periods]
    cut = sum(2 * size >= 38 for size in sizes)
    assert 0 < cut < 3, "some prompts are cut at two repeats, some are not"
    assert made.cells == ((0.5, 2), (0.9, 2))
    told = [(one.ratio, one.repeats, one.same_as, one.prompts) for one in made.refused]
    assert told == [(r, times, 2, cut) for r in (0.5, 0.9) for times in (4, 8)]
    once = grid_texts(by_word, **{**GRID, "repeats": (4, 8)})
    assert once.refused == tuple(
        Refused(ratio=r, repeats=8, same_as=4, prompts=3) for r in (0.5, 0.9)
    )


def test_texts_that_cannot_be_cut_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"0\.99 of 1 repeats leaves 0 tokens .* raise repeats"):
        grid_texts(by_word, **{**GRID, "adapt_ratios": (0.99,), "repeats": (1,)})
    with pytest.raises(ValueError, match=r"no tokens for 'Mira keeps nine bees\.': use another"):
        grid_texts(lambda text: [], **GRID)
    flat = grid_texts(lambda text: [1] * len(text.split()), **GRID)
    with pytest.raises(
        ValueError, match=r"'Mira keeps nine bees\.' gives no context of kind shuff"
    ):
        drawn(flat, ("shuffled",))


# --- control contexts


def unique_words():
    """Encode every word of a statement differently: order can then be seen."""
    known: dict[str, int] = {}
    return lambda text: [known.setdefault(w, len(known)) for w in re.findall(r"\w+\.?\n?", text)]


def test_controls_keep_what_they_should_and_not_the_order():
    made = grid_texts(unique_words(), **{**GRID, "repeats": (4, 8), "max_tokens": 200})
    every = drawn(made, trials=3, vocabulary=400)
    for context, _, ids, own in contexts_by_cell(made, every):
        assert len(ids) == len(own)
        if context.kind == "own":
            assert ids.tolist() == own.tolist()
            continue
        assert ids.tolist() != own.tolist()
        kept = np.mean([pair in set(pairwise(own.tolist())) for pair in pairwise(ids.tolist())])
        if context.kind in ("shuffled", "sentences"):
            assert Counter(ids.tolist()) == Counter(own.tolist())
        if context.kind == "sentences":
            assert kept > 0.7, "sentences stay whole"
            assert kept < 1, "not the same text begun elsewhere"
        else:
            assert kept < 0.35
        if context.kind == "other":
            source = [p for p in range(3) if made.periods[p][0] == ids[0]]
            assert source
            assert source != [context.prompt]
            assert ids.tolist() == made.stream(source[0], len(ids)).tolist()


def test_trials_draw_anew_and_seeds_repeat(texts):
    first, again = (drawn(texts, ("shuffled", "random"), trials=2) for _ in range(2))
    other = drawn(texts, ("shuffled", "random"), trials=2, seed=1)
    assert [c.tokens_T.tolist() for c in first] == [c.tokens_T.tolist() for c in again]
    by_trial = {(c.kind, c.prompt, c.trial): c.tokens_T.tolist() for c in first}
    for (kind, prompt, trial), ids in by_trial.items():
        if kind != "own" and trial == 0:
            assert ids != by_trial[kind, prompt, 1]
    changed = [
        a.tokens_T.tolist() != b.tokens_T.tolist() for a, b in zip(first, other, strict=True)
    ]
    assert changed == [c.kind != "own" for c in first]


# --- losses


def slow_loss(model, texts, context_T, prompt, cell, inner):
    """Return (loss of a cell, by the source's measure): one prompt, everything read in full."""
    cut, length = int(texts.adapted_CN[cell, prompt]), int(texts.length_CN[cell, prompt])
    fast = None
    if context_T is not None:
        fast = read(model, torch.from_numpy(context_T)[None], inner, flush=True).state.fast
    frozen = ReaderState(fast, None, None)
    own_BT = torch.from_numpy(texts.stream(prompt, length))[None]
    # All own tokens before the counted ones lead in; beyond the receptive field nothing is seen.
    losses_T = read(model, own_BT, inner, state=frozen, update=False).nll_BT[0]
    alone_T = read(model, own_BT[:, cut:], inner, state=frozen, update=False).nll_BT[0]
    return float(losses_T[cut - 1 :].mean()), float(alone_T.mean())


@pytest.fixture(scope="module")
def model(model_of):
    return model_of("second", vocabulary=WORDS)


@pytest.mark.parametrize("ttt_blocks", [1, 2])
def test_the_batched_grid_equals_one_prompt_at_a_time(texts, model_of, inner_of, ttt_blocks):
    model = model_of("second", vocabulary=WORDS, ttt_blocks=ttt_blocks)
    inner = inner_of(learning_rate=2.0, clip=0.5)
    contexts = drawn(texts, ("shuffled", "other") if ttt_blocks == 2 else ("random",))
    longest = int(texts.length_CN.max())
    period = max(len(period) for period in texts.periods)
    assert longest > model.config.receptive_field + 1 + period, "the periodic part is read"
    arrays = measure_grid(model, texts, contexts, inner, batch=7, source_measure=True)
    for context, cell, ids, _ in contexts_by_cell(texts, contexts):
        name = f"{context.kind}_CN" if context.kind == "own" else f"{context.kind}_RCN"
        at = (cell, context.prompt) if context.kind == "own" else (0, cell, context.prompt)
        slow, alone = slow_loss(model, texts, ids, context.prompt, cell, inner)
        assert arrays[name][at] == pytest.approx(slow, abs=1e-11)
        assert arrays[f"source_{name}"][at] == pytest.approx(alone, abs=1e-11)
    for cell, prompt in np.ndindex(texts.adapted_CN.shape):
        slow, alone = slow_loss(model, texts, None, prompt, cell, inner)
        assert arrays["none_CN"][cell, prompt] == pytest.approx(slow, abs=1e-11)
        assert arrays["source_none_CN"][cell, prompt] == pytest.approx(alone, abs=1e-11)


def test_another_prompts_context_is_read_along_with_its_own(texts, model, inner_of):
    contexts = drawn(texts, ("other",), trials=2)
    inner = inner_of()
    left = set()
    for context, cell, fast in adapted(model, texts, contexts, inner, batch=100):
        cut = texts.adapted_CN[cell, context.prompt]
        left.add((context.kind, context.prompt, context.trial, cell))
        if context.kind == "own":
            continue
        slow = read(model, torch.from_numpy(context.tokens_T[:cut])[None], inner, flush=True)
        for name, tensor in slow.state.fast.items():
            torch.testing.assert_close(fast[name], tensor, rtol=0, atol=1e-12)
    assert len(left) == len(contexts) * len(texts.cells)


def test_the_size_of_a_batch_changes_nothing(texts, model, inner_of):
    contexts = drawn(texts, ("other", "random"), trials=2)
    told = [
        measure_grid(model, texts, contexts, inner_of(), batch=size, source_measure=False)
        for size in (2, 100)
    ]
    for name, values in told[0].items():
        np.testing.assert_allclose(values, told[1][name], rtol=0, atol=1e-11, err_msg=name)


def gains(arrays):
    conditions = [name for name in arrays if name.partition("_")[0] in ("own", *CONTROLS)]
    return {name: arrays["none_CN"] - arrays[name] for name in conditions}


@pytest.mark.parametrize("arm", ["second", "two_mlp", "sliding", "dynamic"])
def test_what_cannot_learn_gains_exactly_nothing(texts, model_of, inner_of, arm):
    inner = inner_of(learning_rate=0.0 if arm == "second" else 2.0)
    model = model_of(arm, vocabulary=WORDS).float()
    contexts = drawn(texts)
    arrays = measure_grid(model, texts, contexts, inner, batch=5, source_measure=True)
    for name, gain in gains(arrays).items():
        assert np.array_equal(gain, np.zeros_like(gain)), name
    for kind in CONTROLS:
        assert np.array_equal(arrays[f"source_{kind}_RCN"][0], arrays["source_none_CN"])


def test_fast_weights_that_learn_help_most_with_their_own_text(model_of):
    # A wide net with fresh weights learns a repeated text by plain gradient steps alone.
    encode = unique_words()
    made = grid_texts(encode, prompts=6, adapt_ratios=(0.5, 0.9), repeats=(12,), max_tokens=400)
    size = 1 + int(max(period.max() for period in made.periods))
    shape = {"blocks": 2, "width": 32, "hidden": 64, "ttt_blocks": 1, "window": 16}
    model = model_of("first", vocabulary=size, **shape).float()
    inner = InnerConfig(chunk=16, learning_rate=2.0, clip=1.0)
    contexts = drawn(made, vocabulary=size)
    arrays = measure_grid(model, made, contexts, inner, batch=40, source_measure=False)
    gain = gains(arrays)
    assert (gain["own_CN"] > 0.5).all()
    assert (gain["own_CN"] > gain["other_RCN"][0] + 0.5).all()
    assert (gain["own_CN"] > gain["random_RCN"][0] + 0.5).all()
    assert (gain["own_CN"] > gain["shuffled_RCN"][0]).all(), "order is learnt, not words alone"
    assert (gain["shuffled_RCN"][0] > gain["other_RCN"][0]).all(), "words are learnt too"


def test_full_attention_is_refused(texts, model_of, inner_of):
    model = model_of("full", vocabulary=WORDS)
    with pytest.raises(ValueError, match="needs a sliding window"):
        measure_grid(model, texts, drawn(texts), inner_of(), batch=4, source_measure=False)


# --- sweep


def swept(model, **changes):
    values = {"learning_rates": (0.5, 2.0), "chunks": (2, 4, 8), "prompts": 2}
    config = SweepConfig(**{**values, "adapt_ratio": 0.9, "repeats": 4, **changes})
    inner = InnerConfig(chunk=3, learning_rate=9.0, clip=0.5)
    more = {"max_tokens": 48, "batch": 8, "vocabulary": np.arange(WORDS)}
    return sweep(model, by_word, inner, config, generator=numpy_generator(0, "sweep"), **more)


def test_the_sweep_is_the_grid_under_other_settings(texts, model):
    points = swept(model)
    assert [(p["chunk"], p["learning_rate"]) for p in points] == [
        (chunk, rate) for chunk in (2, 4, 8) for rate in (0.5, 2.0)
    ]
    inner = InnerConfig(chunk=4, learning_rate=2.0, clip=0.5)
    arrays = measure_grid(model, texts, drawn(texts), inner, batch=8, source_measure=False)
    cell = texts.cells.index((0.9, 4))
    np.testing.assert_allclose(points[3]["own"], arrays["own_CN"][cell, :2], atol=1e-11)
    np.testing.assert_allclose(points[3]["none"], arrays["none_CN"][cell, :2], atol=1e-11)
    assert points[3]["reason"] is None
    for point in points[4:]:
        assert point["own"] is None
        assert "longer than the window of 4 tokens" in point["reason"]


def test_a_setting_that_explodes_is_told_not_raised(model):
    points = swept(model, learning_rates=(1e200,), chunks=(4,))
    assert points[0]["own"] is None
    assert "not finite" in points[0]["reason"]


# --- settings


def test_settings_name_what_is_wrong():
    good = {"prompts": 2, "adapt_ratios": (0.5,), "repeats": (20,), "trials": 1, "batch": 1}
    good |= {"resamples": 1, "recipes": {}}
    GridConfig(**good)
    for changed, message in (
        ({"prompts": 21}, "prompts must be 2 to 20, got 21"),
        ({"adapt_ratios": (0.9, 0.5)}, "adapt_ratios must be rising"),
        ({"adapt_ratios": (0.5, 1.0)}, "adapt_ratios must be between 0 and 1"),
        ({"repeats": ()}, "repeats must be rising, with at least one"),
        ({"trials": 0}, "trials must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            GridConfig(**{**good, **changed})
    with pytest.raises(ConfigError, match="max_tokens must be at least 4"):
        GridRecipeConfig(max_tokens=3, source_measure=False, sweep=None)
    with pytest.raises(ConfigError, match="learning_rates must be above 0"):
        SweepConfig(learning_rates=(0.0,), chunks=(1,), prompts=2, adapt_ratio=0.5, repeats=1)


# --- what is not finite, and how much is held


def test_a_loss_that_is_no_number_names_its_chunk(texts, model):
    """Weights that a context left are far too large; a setting of the sweep tells it as reason."""
    wild = InnerConfig(chunk=2, learning_rate=1e200, clip=1.0)
    contexts = drawn(texts)
    with pytest.raises(InnerLossError, match=r"of chunk \d+ is not finite"):
        measure_grid(model, texts, contexts, wild, batch=9, source_measure=False)
    counted = grid._counted(model, texts, 0)[0]
    fast = FastWeights.init(model, 1).detached()
    spoiled = FastWeights({name: w * torch.nan for name, w in fast.items()})
    chunk = counted.start // 2
    told = f"^the loss of chunk {chunk} is not finite after a context was learnt: lower inner"
    with pytest.raises(InnerLossError, match=told):
        counted.loss(model, spoiled, wild)


@pytest.mark.parametrize("batch", [1, 3, 9])
def test_no_more_than_a_batch_is_learnt_at_once(monkeypatch, texts, model_of, inner_of, batch):
    """As with the source's 64 tokens, one chunk: there all cells of all streams end in it."""
    model, inner = model_of("second", vocabulary=WORDS, window=48), inner_of(chunk=48)
    rows = []
    reading = grid.read

    def counting(model, tokens_BT, *args, **kwargs):
        rows.append(len(tokens_BT))
        return reading(model, tokens_BT, *args, **kwargs)

    monkeypatch.setattr(grid, "read", counting)
    made = list(adapted(model, texts, drawn(texts), inner, batch=batch))
    assert max(rows) <= batch
    wanted = [(context, cell) for context in drawn(texts) for cell in range(4)]
    assert len(made) == len(wanted) > 9
