"""Language models on text: what is refused, and a decoder behind the evaluation harness's interface."""

import abc
import json
import math
import sys
from functools import partial
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.data import train_tokenizer
from diffax.evaluation import (
    HarnessModel,
    Item,
    as_harness_model,
    decoder_logits,
    evaluate_choices,
    kl_divergence,
    log_likelihoods,
    nll,
    perplexity,
    read_items,
)
from diffax.models.decoder_lm import DecoderConfig, DecoderLM, uniform_layers

POSITIONS = 24


def flat(vocabulary):
    """A model that knows nothing."""
    return lambda tokens: jnp.zeros((*tokens.shape, vocabulary))


def request(*args):
    return SimpleNamespace(args=args)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat sat on the mat, the dog ran to the cat " * 3], 270)


@pytest.fixture(scope="module")
def decoder(tokenizer):
    """A random one that is far from uniform, and its parameters."""
    config = DecoderConfig(tokenizer.size, 16, 2, 1, 8, uniform_layers(1, 24, 8), positions=POSITIONS)
    model = DecoderLM(config)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    return model, jax.tree.map(lambda x: 3 * x, params)


@pytest.fixture(scope="module")
def harness(decoder, tokenizer):
    return HarnessModel(*decoder, tokenizer, batch_size=3)


@partial(jax.jit, static_argnums=0)
def _apply(model, params, tokens):
    return model.apply({"params": params}, tokens)


def log_probabilities(decoder, ids):
    """Of the token after each, float64; one shape, so that it is compiled once."""
    model, params = decoder
    padded = np.zeros((1, POSITIONS), np.int32)
    padded[0, : len(ids)] = ids
    logits = np.asarray(_apply(model, params, padded), np.float64)[0, : len(ids)]
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([[1]], {}, "texts: got 'one of 1 tokens', allowed: two tokens or more"),
        ([], {}, "texts: got 0, allowed: one or more"),
        ([[1, 2]], {"batch_size": 0}, "batch_size: got 0"),
        ([[1, 2]], {"mask": [[True, True, True]]}, r"mask: got \[\(3,\)\], allowed: the shapes of the texts"),
        ([[1, 2]], {"mask": [[True, False]]}, "mask: got 'no token', allowed: a token that counts"),
    ],
)
def test_bad_texts_are_refused(texts, options, message):
    with pytest.raises(ValueError, match=message):
        perplexity(flat(5), texts, **options)


def test_vocabularies_must_be_the_same():
    with pytest.raises(ValueError, match=r"logits_q: shape: got \(8, 2, 6\), allowed: \(8, 2, 5\)"):
        kl_divergence(flat(5), flat(6), np.ones((1, 2), int))


def test_few_shapes_are_compiled():
    shapes = set()

    def watched(tokens):
        shapes.add(tokens.shape)
        return flat(5)(tokens)

    nll(watched, [[1] * length for length in range(2, 160)], batch_size=4)
    assert shapes == {(4, 64), (4, 128), (4, 159)}
    shapes.clear()
    nll(watched, np.ones((7, 100), int), batch_size=4)
    assert shapes == {(4, 100)}


def test_a_decoder_is_measured_as_it_is(decoder):
    texts = np.random.default_rng(0).integers(0, 270, (3, POSITIONS))
    nats, _ = nll(decoder_logits(*decoder), texts, batch_size=2)
    for text, found in zip(texts, nats):
        each = log_probabilities(decoder, text)[np.arange(POSITIONS - 1), text[1:]]
        assert found == pytest.approx(-each.sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("arc", {"question": "?"}, r"row 0: got KeyError\('choices'\), allowed: the fields of arc"),
        (
            "arc",
            {"question": "?", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "B"},
            "row 0: got",
        ),
        (
            "piqa",
            {"goal": "a", "sol1": "b", "sol2": "c", "label": 2},
            r"row 0: answer: got 2, allowed: 0 \.\. 1",
        ),
        ("piqa", {"goal": "a", "sol1": "b", "sol2": "", "label": 1}, "row 0: continuations: got"),
        (
            "winogrande",
            {"sentence": "none", "option1": "a", "option2": "b", "answer": "1"},
            "row 0: got Value",
        ),
        ("mmlu", {}, "kind: got 'mmlu', allowed: one of arc, hellaswag, piqa, winogrande"),
    ],
)
def test_bad_questions_are_named(kind, row, message, tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(ValueError, match=message):
        read_items(path, kind)


def test_bad_items_are_refused(tokenizer):
    options = {"positions": 8}
    with pytest.raises(ValueError, match="items: got 0, allowed: one or more"):
        evaluate_choices(flat(270), tokenizer, [], **options)
    with pytest.raises(ValueError, match=r"items\[0\]: contexts: got 1, allowed: 2"):
        evaluate_choices(flat(270), tokenizer, [Item(("a",), (" b", " c"), 0)], **options)
    with pytest.raises(ValueError, match="continuation: got 20, allowed: 1 to 8 tokens"):
        log_likelihoods(flat(270), tokenizer, [("a", "z" * 20)], **options)
    assert log_likelihoods(flat(270), tokenizer, [], **options) == []


def test_the_harness_gets_log_likelihoods(harness, decoder, tokenizer):
    pairs = [("the cat", " sat on"), ("", "dog"), ("the dog ran ", "to")]
    found = harness.loglikelihood([request(*pair) for pair in pairs])
    for (context, after), (nats, greedy) in zip(pairs, found):
        ids = tokenizer.encode(context + after)
        start = len(tokenizer.encode(context.rstrip()))
        table = log_probabilities(decoder, ids)
        assert nats == pytest.approx(sum(table[i - 1, ids[i]] for i in range(start, len(ids))), rel=1e-5)
        assert greedy == all(np.argmax(table[i - 1]) == ids[i] for i in range(start, len(ids)))


def harness_windows(ids, prefix, longest):
    """What lm_eval.utils.get_rolling_token_windows of 0.4.13 gives with a context of one token."""
    done = min(longest, len(ids))
    yield [prefix, *ids[: done - 1]], ids[:done]
    while done < len(ids):
        count = min(len(ids) - done, longest)
        stop = done + count
        yield ids[stop - longest - 1 : stop - 1], ids[stop - count : stop]
        done = stop


@pytest.mark.parametrize("repeats", [1, 4, 9])
def test_rolling_windows_are_the_harnesses(harness, decoder, tokenizer, repeats):
    text = "the cat sat, oddly; " * repeats
    ids = tokenizer.encode(text, begin=False)
    expected = 0.0
    for inputs, targets in harness_windows(ids, tokenizer.begin, POSITIONS):
        table = log_probabilities(decoder, inputs)[-len(targets) :]
        expected += sum(row[token] for row, token in zip(table, targets))
    (found,) = harness.loglikelihood_rolling([request(text)])
    assert found == pytest.approx(expected, rel=1e-5)
    assert harness.loglikelihood_rolling([request(""), request(text)]) == [0.0, pytest.approx(expected)]


def test_greedy_text_stops_where_it_is_told(harness, decoder, tokenizer):
    context, ids = "the cat", tokenizer.encode("the cat")
    for _ in range(8):
        ids.append(int(np.argmax(log_probabilities(decoder, ids)[-1])))
    whole = tokenizer.decode(ids)[len(context) :]
    assert harness.generate_until([request(context, {"max_gen_toks": 8})]) == [whole]
    stop = whole[2:4]
    options = {"max_gen_toks": 8, "until": [stop, "never"], "do_sample": False}
    (found,) = harness.generate_until([request(context, options)])
    assert found == whole[: whole.index(stop)]
    long = harness.generate_until([request("the cat sat " * 30, {"max_gen_toks": 4, "until": []})])
    assert len(long) == 1
    with pytest.raises(ValueError, match="do_sample: got True, allowed: False, or temperature 0"):
        harness.generate_until([request(context, {"do_sample": True, "temperature": 0.7})])


def test_positions_are_checked(decoder, tokenizer):
    with pytest.raises(ValueError, match=r"positions: got 25, allowed: an integer in \[2, 24\]"):
        HarnessModel(*decoder, tokenizer, positions=25)


def test_the_harnesses_class_is_a_base_where_it_is_there(decoder, tokenizer, monkeypatch):
    class LM(abc.ABC):
        def __init__(self):
            self.cache_hook = "made"

        @abc.abstractmethod
        def loglikelihood(self, requests):
            """As in the package."""

    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    assert type(as_harness_model(*decoder, tokenizer)) is HarnessModel
    for name in ("lm_eval", "lm_eval.api", "lm_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["lm_eval.api.model"].LM = LM
    found = as_harness_model(*decoder, tokenizer, batch_size=2)
    assert isinstance(found, LM)
    assert isinstance(found, HarnessModel)
    assert (found.cache_hook, found.batch_size) == ("made", 2)
    ((nats, _),) = found.loglikelihood([request("the", " cat")])
    assert -math.inf < nats < 0
