"""Reading test documents: controls, lead-in, lengths of context, against one document at a time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mneme.core.config import ConfigError, build
from mneme.ttt.context import (
    DynamicReader,
    InnerReader,
    ReadingError,
    kinds_of,
    read_set,
    reader_of,
)
from mneme.ttt.context_config import ContextConfig, SetConfig, require_sets
from mneme.ttt.context_documents import (
    Documents,
    draw_contexts,
    markov_documents,
    text_documents,
)
from mneme.ttt.corpus_config import CorpusConfig, FewStatesConfig, MarkovConfig
from mneme.ttt.inner import InnerLossError
from mneme.ttt.material import markov_material, text_material

KINDS = ("own", "shuffled", "sentences", "other", "random", "none")
FIELD = 9  # 3 blocks x (window 4 - 1)
SET = {
    "corpus": "text",
    "kind": "conversation",
    "documents": 6,
    "tokens": 39,
    "least_tokens": 3,
    "adapt_tokens": 14,
    "counted_tokens": 5,
    "contexts": [3, 20],
    "edges": [1, 3, 10, 40],
}
DYNAMIC = {
    "chunk": 4,
    "clip": 1.0,
    "learning_rates": [0.3],
    "tokens": 39,
    "documents": 2,
    "batch": 6,
    "kinds": ["own", "other", "none"],
}
NONE = FewStatesConfig(steps=0, symbols=2, concentration=0.1, tokens=8)
CPU = torch.device("cpu")


def set_of(**changes):
    return build(SetConfig, SET | changes, where="set")


def context_config(**changes):
    values = {"sets": {"talks": SET}, "kinds": list(KINDS), "batch": 4, "resamples": 200}
    few = {"dynamic": DYNAMIC, "untrained_kinds": ["own", "none"]}
    return build(ContextConfig, values | few | changes, where="context")


@pytest.fixture(scope="module")
def documents():
    """Six documents of three groups; the last two are too short for contexts."""
    generator = np.random.default_rng(0)
    tokens_NT = generator.integers(7, size=(6, 40))
    lengths_N = np.array([40, 40, 33, 40, 12, 4])
    for row, length in zip(tokens_NT, lengths_N, strict=True):
        row[length:] = 0
    return Documents(
        tokens_NT=tokens_NT,
        lengths_N=lengths_N,
        group_N=np.array([3, 3, 5, 5, 8, 8]),
        ends_NT=np.arange(40)[None] % 4 == np.arange(6)[:, None] % 4,
        plain=np.arange(1, 7),
        ideals={},
    )


def read_all(reader, documents, one, *, arm, kinds=KINDS):
    return read_set(
        reader,
        documents,
        one,
        arm=arm,
        kinds=kinds,
        every_kind=KINDS,
        receptive_field=FIELD,
        device=CPU,
    )


@pytest.fixture(scope="module")
def second(model_of, inner_of, documents):
    """Readings of a network with fast weights, and what it was read with."""
    model, inner = model_of("second"), inner_of(learning_rate=1.0)
    reader = InnerReader(model, inner, 4)
    return model, inner, read_all(reader, documents, set_of(), arm="second")


# --- the oracle


def test_every_number_is_that_of_a_slow_reader_of_one_document(
    second, documents, slow_read, inner_of
):
    model, inner, found = second
    one = set_of()
    kept_M, contexts = draw_contexts(documents, one, KINDS, receptive_field=FIELD)
    assert kept_M.tolist() == found["kept_M"].tolist() == [0, 1, 2, 3]
    for place, index in enumerate(kept_M[:2]):
        tokens_T = torch.as_tensor(documents.tokens_NT[index])
        slow = slow_read(model, tokens_T, inner).nll.detach().numpy()
        np.testing.assert_allclose(found["nll_NT"][index], slow, atol=1e-6)
        for kind in ("own", "other", "none"):
            weights = dict(model.named_parameters())
            if kind != "none":
                context_A = torch.as_tensor(contexts[kind][place])
                fast = slow_read(model, context_A, inner, flush=True).fast
                weights |= {f"{name}.weight": w for name, w in fast.items()}
            held = inner_of(learning_rate=0.0)
            own_T = tokens_T[14 : 14 + FIELD + 5]  # lead-in, then counted tokens
            nll_T = slow_read(model, own_T, held, weights=weights).nll.detach()
            slow = float(nll_T[-5:].mean())
            assert found[f"loss_{kind}_M"][place] == pytest.approx(slow, abs=1e-10)


def test_the_same_reading_with_updates_off(second, documents, slow_read, inner_of, model_of):
    model, inner, found = second
    for index in (0, 4):
        length = documents.lengths_N[index]
        tokens_T = torch.as_tensor(documents.tokens_NT[index, :length])
        slow = slow_read(model, tokens_T, inner_of(learning_rate=0.0)).nll.detach().numpy()
        np.testing.assert_allclose(found["frozen_NT"][index, : length - 1], slow, atol=1e-6)
    assert np.abs(found["frozen_NT"] - found["nll_NT"]).max() > 1e-3
    for arm in ("naive", "untrained", "two_mlp"):
        reader = InnerReader(model_of(arm), inner, 4)
        assert "frozen_NT" not in read_all(reader, documents, set_of(), arm=arm, kinds=("none",))


def test_naive_updates_the_weights_of_two_mlp(second, documents, model_of):
    """The same weights give the same readings as `second`, and `two_mlp`'s with updates off."""
    model, inner, found = second
    naive, plain = (model_of(arm) for arm in ("naive", "two_mlp"))
    plain.load_state_dict(model.state_dict())
    naive.load_state_dict(plain.state_dict())
    kinds = ("own", "other", "none")
    read = read_all(InnerReader(naive, inner, 4), documents, set_of(), arm="naive", kinds=kinds)
    for key in ("nll_NT", "loss_own_M", "loss_other_M", "loss_none_M"):
        np.testing.assert_array_equal(read[key], found[key])
    still = read_all(InnerReader(plain, inner, 4), documents, set_of(), arm="two_mlp", kinds=())
    np.testing.assert_allclose(still["nll_NT"], found["frozen_NT"], atol=1e-6)
    assert "length_XL" not in read


def test_lengths_are_read_anew_from_so_many_tokens_before(second, documents, slow_read):
    model, inner, found = second
    assert found["long_X"].tolist() == [0, 1, 2, 3]  # 20 + 5 tokens or more
    for column, context in enumerate((3, 20)):
        tail_T = torch.as_tensor(documents.tokens_NT[2, 33 - 5 - context : 33])
        slow = float(slow_read(model, tail_T, inner).nll.detach()[-5:].mean())
        assert found["length_XL"][2, column] == pytest.approx(slow, abs=1e-6)


def test_batches_change_nothing(second, documents):
    model, inner, found = second
    again = read_all(InnerReader(model, inner, 1), documents, set_of(), arm="second")
    assert set(again) == set(found)
    for key, values in found.items():
        np.testing.assert_allclose(again[key], values, atol=1e-6, err_msg=key)


def test_losses_end_with_the_document(second, documents):
    found = second[2]
    assert found["targets_N"].tolist() == [39, 39, 32, 39, 11, 3]
    for row, targets in zip(found["nll_NT"], found["targets_N"], strict=True):
        assert (row[targets:] == 0).all()
        assert (row[:targets] > 0).all()


# --- known answers


def test_rate_0_makes_every_context_worth_the_same(model_of, inner_of, documents):
    reader = InnerReader(model_of("second"), inner_of(learning_rate=0.0), 4)
    found = read_all(reader, documents, set_of(), arm="second")
    for kind in KINDS:
        np.testing.assert_array_equal(found[f"loss_{kind}_M"], found["loss_none_M"])


def test_with_a_rate_every_context_leaves_other_weights(second):
    found = second[2]
    for kind in KINDS[1:]:
        assert (found[f"loss_{kind}_M"] != found["loss_own_M"]).all(), kind


def test_a_plain_window_reads_alike_after_the_lead_in_and_in_the_whole_document(
    model_of, inner_of, documents
):
    """All but the first counted token, which reaches one token back before the lead-in."""
    reader = InnerReader(model_of("sliding"), inner_of(), 4)
    first, five = (
        read_all(
            reader, documents, set_of(counted_tokens=n, contexts=[]), arm="sliding", kinds=("none",)
        )
        for n in (1, 5)
    )
    assert "loss_own_M" not in five
    later = slice(14 + FIELD, 14 + FIELD + 4)  # loss of token t + 1 stands at t
    whole_M = five["nll_NT"][five["kept_M"], later].sum(axis=1)
    np.testing.assert_allclose(5 * five["loss_none_M"] - first["loss_none_M"], whole_M, atol=1e-6)


def test_full_attention_is_counted_in_its_ordinary_reading(model_of, inner_of, documents):
    reader = InnerReader(model_of("full"), inner_of(), 4)
    found = read_all(reader, documents, set_of(), arm="full", kinds=("none",))
    first = 14 + FIELD - 1  # loss of token t + 1 stands at t
    counted = found["nll_NT"][found["kept_M"], first : first + 5].mean(axis=1)
    np.testing.assert_allclose(found["loss_own_M"], counted, atol=1e-6)


def test_dynamic_evaluation_is_measured_with_the_same_contexts(model_of, inner_of, documents):
    model = model_of("sliding", blocks=2)
    config = context_config()
    reader, facts = reader_of(
        model, "dynamic", inner_of(), config, validation_NT=documents.tokens_NT[:2]
    )
    assert facts["dynamic"]["learning_rate"] == 0.3
    assert facts["dynamic"]["tries"] == 1
    kinds = kinds_of("dynamic", config)
    found = read_all(reader, documents, set_of(contexts=[]), arm="dynamic", kinds=kinds)
    assert {key for key in found if key.startswith("loss")} == {
        "loss_own_M",
        "loss_other_M",
        "loss_none_M",
    }
    plain = InnerReader(model, inner_of(), 4)
    still = read_all(plain, documents, set_of(contexts=[]), arm="sliding", kinds=("none",))
    np.testing.assert_allclose(found["loss_none_M"], still["loss_none_M"], atol=1e-10)
    assert (found["loss_own_M"] != found["loss_other_M"]).all()


def test_dynamic_evaluation_with_rate_0_finds_nothing(model_of, documents):
    config = context_config()
    still = DynamicReader(model_of("sliding", blocks=2), config.dynamic, 0.0)
    kinds = kinds_of("dynamic", config)
    found = read_all(still, documents, set_of(contexts=[]), arm="dynamic", kinds=kinds)
    np.testing.assert_array_equal(found["loss_own_M"], found["loss_other_M"])


def test_arms_are_measured_with_their_own_contexts():
    config = context_config()
    assert kinds_of("second", config) == kinds_of("first", config) == KINDS
    assert kinds_of("dynamic", config) == ("own", "other", "none")
    assert kinds_of("untrained", config) == kinds_of("naive", config) == ("own", "none")
    assert kinds_of("full", config) == kinds_of("two_mlp", config) == ("none",)


# --- documents and contexts


def test_contexts_keep_what_they_say_and_are_the_same_for_every_run(documents):
    one = set_of()
    kept_M, contexts = draw_contexts(documents, one, KINDS, receptive_field=FIELD)
    _, again = draw_contexts(documents, one, ("other", "shuffled"), receptive_field=FIELD)
    first_NA = documents.tokens_NT[:, :14]
    assert set(contexts) == set(KINDS) - {"none"}
    for place, index in enumerate(kept_M):
        own_A = first_NA[index]
        np.testing.assert_array_equal(contexts["own"][place], own_A)
        for kind in ("shuffled", "sentences"):
            changed = contexts[kind][place]
            np.testing.assert_array_equal(np.sort(changed), np.sort(own_A))
            assert (changed != own_A).any()
        strangers = np.flatnonzero(documents.group_N != documents.group_N[index])
        assert any(
            (contexts["other"][place] == first_NA[s]).all() for s in strangers if s in kept_M
        )
        assert contexts["random"][place].min() >= 1
    for kind, drawn in again.items():
        np.testing.assert_array_equal(drawn, contexts[kind])


def test_one_group_has_no_other_document_and_no_contexts(second, documents):
    model, inner, _ = second
    alone = Documents(**{**vars(documents), "group_N": np.full(6, 1)})
    found = read_all(InnerReader(model, inner, 4), alone, set_of(), arm="second")
    assert "kept_M" not in found
    assert found["nll_NT"].shape == (6, 39)


def test_documents_too_short_for_anything_but_reading(second, documents):
    model, inner, _ = second
    short = Documents(
        **{
            **vars(documents),
            "tokens_NT": documents.tokens_NT[:, :20],
            "lengths_N": np.minimum(documents.lengths_N, 20),
        }
    )
    found = read_all(InnerReader(model, inner, 4), short, set_of(), arm="second")
    assert not {"kept_M", "length_XL"} & set(found)


def test_checksums_tell_documents_apart_by_their_tokens(documents):
    sums = documents.checksums()
    assert len(set(sums)) == 6
    padded = Documents(
        **{
            **vars(documents),
            "tokens_NT": np.where(
                np.arange(40) < documents.lengths_N[:, None], documents.tokens_NT, 6
            ),
        }
    )
    np.testing.assert_array_equal(padded.checksums(), sums)


def test_markov_documents_bring_their_ideal_learners():
    material = markov_material(
        MarkovConfig(symbols=5, concentration=0.2, seed=1, test_seed=2, begin=NONE)
    )
    one = set_of(corpus="markov", kind="chain", least_tokens=39)
    documents = markov_documents(material, one, receptive_field=FIELD)
    every, near = documents.ideals["ideal_all_NT"], documents.ideals["ideal_far_NT"]
    assert every.shape == near.shape == (6, 39)
    np.testing.assert_array_equal(every[:, : FIELD + 1], near[:, : FIELD + 1])
    assert (every[:, FIELD + 1 :] != near[:, FIELD + 1 :]).any()
    assert every[:, 0] == pytest.approx(np.log(5))
    assert ((documents.ideals["entropy_N"] > 0) & (documents.ideals["entropy_N"] < np.log(5))).all()
    kept_M, contexts = draw_contexts(documents, one, KINDS, receptive_field=FIELD)
    assert len(kept_M) == 6
    assert "sentences" not in contexts


def test_text_documents_are_cut_and_marked():
    lengths, offsets = [60, 50, 30, 12], [0, 60, 110, 140, 152]
    arrays = {
        "ids": np.tile([1, 1, 1, 2], 38),
        "offsets": np.array(offsets),
        "kind": np.array([0, 0, 1, 1], np.int8),
        "split": np.full(4, 2, np.int8),
        "group": np.array([0, 1, 2, 3]),
        "names": np.array(list("abcd")),
        "turns": np.zeros(2, int),
        "turn_offsets": np.array([0, 0, 0, 1, 2]),
        "vocabulary": np.array(3),
    }
    config = CorpusConfig(
        tokenizer="bytes",
        vocabulary=None,
        sources={"shakespeare": 0.5, "chitchat": 0.5},
        train_share=0.5,
        validation_share=0.25,
        test_part="last",
        min_turns=2,
        drop_offensive=False,
        limit=None,
        harmless=(),
        seed=0,
    )
    codec = SimpleNamespace(
        pieces=lambda: [b"#", b"a", b". "],
        marks=SimpleNamespace(stops=(0,)),
        plain_ids=np.array([1, 2], np.int32),
    )
    material = text_material(arrays, config)
    talks = text_documents(
        material, codec, set_of(documents=2, tokens=19, least_tokens=10, contexts=[], edges=[1, 20])
    )
    assert talks.lengths_N.tolist() == [20, 12]
    assert talks.group_N.tolist() == [2, 3]
    np.testing.assert_array_equal(
        talks.ends_NT[1], (talks.tokens_NT[1] == 2) & (np.arange(20) < 12)
    )
    plays = text_documents(
        material,
        codec,
        set_of(kind="play", documents=4, tokens=19, least_tokens=19, contexts=[], edges=[1, 20]),
    )
    assert plays.tokens_NT.shape == (4, 20)
    assert plays.group_N.tolist() == [0, 0, 1, 1]
    assert sum(lengths) == offsets[-1]


# --- errors


@pytest.mark.parametrize(("batch", "document"), [(6, 3), (2, 3), (1, 2)])
def test_a_loss_that_is_no_number_names_document_and_chunk(model_of, documents, batch, document):
    model = model_of("sliding", blocks=2)
    with torch.no_grad():
        model.embedding.weight[6] = torch.nan
    tokens_NT = documents.tokens_NT % 6
    tokens_NT[document, 21] = 6  # chunk 5 of 4 tokens
    spoiled = Documents(**{**vars(documents), "tokens_NT": tokens_NT})
    config = context_config(dynamic=DYNAMIC | {"batch": batch})
    reader = DynamicReader(model, config.dynamic, 0.1)
    told = f"^the loss of chunk 5 of test document {document}, read from its beginning, is not fin"
    with pytest.raises(ReadingError, match=told):
        read_all(reader, spoiled, set_of(contexts=[]), arm="dynamic", kinds=())


def test_a_context_that_spoils_the_weights_names_document_and_chunk(model_of, documents):
    """Any update makes the weights no numbers; the text itself is read without one."""
    model = model_of("sliding", blocks=2)
    reader = DynamicReader(model, context_config().dynamic, 0.1)
    after, fine = reader.after, reader.losses

    class Spoiled:
        batch, chunk = 4, 4
        losses = staticmethod(fine)

        @staticmethod
        def after(context_BA):
            held = after(context_BA)
            return held if context_BA is None else lambda own: held(own) * torch.nan

    told = "^the loss of chunk 0 of test document 0, after a context was learnt, is not finite"
    with pytest.raises(ReadingError, match=told):
        read_all(Spoiled(), documents, set_of(contexts=[]), arm="dynamic", kinds=("none", "own"))


def test_fast_weights_that_diverge_on_a_test_document_name_the_chunk(model_of, inner_of, documents):
    reader = InnerReader(model_of("second"), inner_of(learning_rate=1e200), 4)
    with pytest.raises(InnerLossError, match="of chunk 1 is not finite"):
        read_all(reader, documents, set_of(), arm="second")


# --- a network that was never trained


def test_an_untrained_network_gains_from_its_own_text_too(model_of, inner_of):
    """Learning at test time is memory by itself: a baseline for what training adds, no null."""
    generator = np.random.default_rng(1)
    tokens_NT = np.tile(generator.integers(7, size=(8, 4)), (1, 10))  # each repeats a text
    documents = Documents(
        tokens_NT=tokens_NT,
        lengths_N=np.full(8, 40),
        group_N=np.arange(8),
        ends_NT=None,
        plain=np.arange(7),
        ideals={},
    )
    model, few = model_of("untrained"), ("own", "other", "none")
    found, still = (
        read_all(InnerReader(model, inner, 4), documents, set_of(), arm="untrained", kinds=few)
        for inner in (inner_of(clip=1.0), inner_of(learning_rate=0.0))
    )
    assert "length_XL" not in found, "not followed over lengths"
    assert (found["loss_own_M"] - found["loss_other_M"]).mean() < -0.2
    assert (found["loss_own_M"] - found["loss_none_M"]).mean() < -0.2
    np.testing.assert_array_equal(still["loss_own_M"], still["loss_other_M"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapt_tokens": 0}, "adapt_tokens must be at least 1"),
        ({"least_tokens": 40}, "least_tokens must be 1 to tokens = 39"),
        ({"kind": "play"}, "least_tokens must be tokens = 39"),
        ({"contexts": [20, 3]}, "contexts must be ascending"),
        ({"contexts": [36]}, "contexts must be at most tokens"),
        ({"edges": [1]}, "edges must be two or more"),
        ({"edges": [1, 41]}, "edges must be at most tokens"),
    ],
)
def test_sets_that_cannot_be(changes, message):
    with pytest.raises(ConfigError, match=message):
        set_of(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sets": {}}, "sets must be one or more"),
        ({"kinds": ["own", "other"]}, "kinds must be different ones, with own and none"),
        ({"kinds": ["own", "none"]}, "dynamic.kinds must be a part of kinds"),
        ({"untrained_kinds": ["own", "new"]}, "untrained_kinds"),
        ({"untrained_kinds": ["own"]}, "untrained_kinds must be empty, or with own and none"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"resamples": 10}, "resamples must be at least 100"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ConfigError, match=message):
        context_config(**changes)


def test_a_set_needs_a_corpus_that_runs_are_trained_on():
    require_sets(context_config(), ["text", "markov"])
    with pytest.raises(ConfigError, match=r"sets\.talks\.corpus must be one of markov"):
        require_sets(context_config(), ["markov"])
