"""Flax models as backends and behind a server: answers do not depend on batches, padding or devices."""

import asyncio
import json

import aiohttp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aiohttp import web

from diffax.models.decoder_lm import DecoderConfig, DecoderLM, uniform_layers
from diffax.training.sharding import make_mesh
from experiments.sage_rt import toytext
from experiments.sage_rt.backends.base import Message, Request
from experiments.sage_rt.backends.flax_lm import FlaxBackend
from experiments.sage_rt.chat_model import ChatModel, Prompt
from experiments.sage_rt.grammar import HeldWriter
from experiments.sage_rt.schemas import mismatch
from experiments.sage_rt.serve import make_app
from experiments.sage_rt.tasks import digest


@pytest.fixture(scope="module")
def model():
    """Random weights, large enough for answers to differ."""
    tokenizer = toytext.make_tokenizer(320)
    config = DecoderConfig(
        tokenizer.size, 16, 2, 1, 8, uniform_layers(1, 16, 8), positions=160, tied=True
    ).check()
    params = jax.jit(DecoderLM(config).init)(jax.random.key(1), jnp.zeros((1, 2), jnp.int32))["params"]
    return ChatModel(config, jax.tree.map(lambda leaf: 4 * leaf, params), tokenizer)


def asked(count, temperature=0.0, tokens=12):
    texts = [pair.prompt for pair in toytext.draw_pairs(count, 5)]
    return [
        Request(digest(text), (Message("user", text),), tokens, temperature, None)
        for place, text in enumerate(texts)
    ]


def answers(model, requests, together):
    """Texts by a backend that is asked all at once, or one after another."""

    async def run():
        backend = FlaxBackend(lambda: model)
        if together:
            found = await asyncio.gather(*(backend.reply(request) for request in requests))
        else:
            found = [await backend.reply(request) for request in requests]
        await backend.close()
        return [reply.text for reply in found], backend.batches

    return asyncio.run(run())


# -- the model ----------------------------------------------------------------------------------------------


def by_hand(model, prompt, steps):
    """The likeliest token, one at a time, by the whole text each time: no cache, and what is padded comes
    after all that counts."""
    tokens, apply = list(prompt), jax.jit(model.model.apply)
    for _ in range(steps):
        padded = jnp.asarray([tokens + [0] * (100 - len(tokens))], jnp.int32)
        logits = apply({"params": model.params}, padded)
        tokens.append(int(jnp.argmax(logits[0, len(tokens) - 1])))
        if tokens[-1] == model.tokenizer.end:
            break
    return tokens[len(prompt) :]


def test_answers_are_those_of_the_bare_model(model):
    prompts = [Prompt(model.tokens_of(request.messages), 5) for request in asked(2)]
    shape = model.shape(max(prompts, key=lambda prompt: len(prompt.tokens)))
    found = model.write(prompts, shape)
    assert found == [by_hand(model, prompt.tokens, 5) for prompt in prompts]


def test_padding_changes_nothing(model):
    prompt = Prompt(model.tokens_of(asked(1)[0].messages), 6, 0.9, 17)
    shape = model.shape(prompt)
    wider = shape._replace(length=shape.length + 16)
    assert model.write([prompt], shape) == model.write([prompt], wider)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_do_not_depend_on_the_batch(model, temperature):
    requests = asked(9, temperature)
    together, batches = answers(model, requests, True)
    alone, more = answers(model, requests, False)
    assert together == alone
    assert (batches <= 3, more) == (True, 9)
    assert len(set(together)) > 1


def test_draws_differ_by_request_and_not_by_time(model):
    requests = [request._replace(id=digest(place)) for place, request in enumerate(asked(1, 1.0) * 6)]
    first, _ = answers(model, requests, True)
    again, _ = answers(model, list(reversed(requests)), True)
    assert first == list(reversed(again))
    assert len(set(first)) > 3


def test_few_programs_are_compiled(model):
    answers(model, asked(5), True)
    before = model.compiled
    answers(model, asked(16, 0.3, tokens=11), True)
    answers(model, asked(7, 1.7, tokens=9), True)
    assert model.compiled <= before + 1  # a batch of 16 where there was none; temperatures make none


def test_a_mesh_gives_the_same(model):
    mesh = make_mesh(4, 1, 2)
    spread = ChatModel(model.config, jax.tree.map(np.asarray, model.params), model.tokenizer, mesh)
    prompts = [Prompt(model.tokens_of(request.messages), 4, 0.8, 3) for request in asked(3)]
    shape = model.shape(max(prompts, key=lambda prompt: len(prompt.tokens)))
    assert spread.batch(3) == 4
    assert spread.write(prompts, shape) == model.write(prompts, shape)


def test_log_probabilities_are_those_of_single_tokens(model):
    said = "that is a"
    prompt = model.tokens_of([Message("user", "what is the colour")])
    tokens = model.tokenizer.encode(f" {said}", begin=False)
    logits = model.model.apply({"params": model.params}, jnp.asarray([prompt + tokens], jnp.int32))[0]
    scores = jax.nn.log_softmax(logits)[len(prompt) - 1 : -1]
    expected = sum(float(row[token]) for row, token in zip(scores, tokens, strict=True))
    assert model.log_probabilities([((Message("user", "what is the colour"),), said)]) == [
        pytest.approx(expected, abs=1e-4)
    ]


def test_what_is_too_long_is_an_error(model):
    words = Request("00" * 16, (Message("user", "what is this " * 200),), 5, 0.0, None)

    async def ask():
        return await FlaxBackend(lambda: model).reply(words)

    reply = asyncio.run(ask())
    assert reply.status == "error"
    assert "fewer than the model's 160 positions" in reply.reason


def test_an_answer_that_is_cut_off_says_so(model):
    async def ask():
        return await FlaxBackend(lambda: model).reply(asked(1, tokens=2)[0])

    reply = asyncio.run(ask())
    assert (reply.status, reply.completion_tokens) == ("length", 2)


# -- the server ---------------------------------------------------------------------------------------------


def serving(model, use):
    """What ``use(session, url, backend)`` gives, with a server at a free port."""

    async def run():
        backend = FlaxBackend(lambda: model)
        runner = web.AppRunner(make_app(backend, "toy"), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        try:
            async with aiohttp.ClientSession() as session:
                return await use(session, url, backend)
        finally:
            await runner.cleanup()
            await backend.close()

    return asyncio.run(run())


def body(text="hello", **more):
    return {
        "model": "toy",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 4,
        "seed": 1,
        **more,
    }


def post(model, sent):
    """Status and body of one request."""

    async def use(session, url, backend):
        async with session.post(f"{url}/chat/completions", json=sent) as response:
            return response.status, json.loads(await response.text())

    return serving(model, use)


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (body(model="other"), 404, "model: got 'other', allowed: 'toy'"),
        (body(messages=[]), 400, "messages: got []"),
        (body(messages=[{"role": "tool", "content": ""}]), 400, "messages[0].role: got 'tool'"),
        (body(messages=[{"role": "user", "content": 3}]), 400, "messages[0].content: got 'int'"),
        (body(temperature=-1), 400, "temperature: got -1"),
        (body(max_tokens=0), 400, "max_tokens: got 0"),
        (body(n=99), 400, "n: got 99"),
        (body(top_p=0.5), 400, "top_p: got 0.5"),
        (body(stop=[3]), 400, "stop: got [3]"),
        (body("word " * 300), 400, "prompt: tokens"),
        ([1], 400, "body: got 'list'"),
    ],
)
def test_bad_requests_are_told_so_in_the_shape_that_clients_know(model, sent, status, message):
    found, said = post(model, sent)
    assert found == status
    assert said["error"]["message"].startswith(message)
    assert said["error"]["type"] == "invalid_request_error"


def test_several_answers_and_stops(model):
    _, said = post(model, body(n=3, temperature=1.0))
    texts = [choice["message"]["content"] for choice in said["choices"]]
    assert [choice["index"] for choice in said["choices"]] == [0, 1, 2]
    assert said["usage"]["total_tokens"] == said["usage"]["prompt_tokens"] + 12
    assert len(set(texts)) > 1
    whole = next(text for text in texts if len(text) > 3)
    place = texts.index(whole)
    _, cut = post(model, body(n=3, temperature=1.0, stop=whole[2]))
    found = cut["choices"][place]
    assert (found["message"]["content"], found["finish_reason"]) == (
        whole[: whole.index(whole[2])],
        "stop",
    )


def test_a_stream_is_the_answer_in_pieces(model):
    async def use(session, url, backend):
        async with session.post(f"{url}/chat/completions", json=body()) as response:
            whole = (await response.json())["choices"][0]
        sent = body(stream=True, stream_options={"include_usage": True})
        async with session.post(f"{url}/chat/completions", json=sent) as response:
            kind, text = response.content_type, await response.text()
        return whole, kind, [line.removeprefix("data: ") for line in text.split("\n\n") if line]

    whole, kind, events = serving(model, use)
    assert kind == "text/event-stream"
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
    assert said == whole["message"]["content"]
    assert chunks[-2]["choices"][0]["finish_reason"] == whole["finish_reason"]
    assert chunks[-1]["usage"]["completion_tokens"] == 4


def test_many_clients_share_batches(model):
    async def use(session, url, backend):
        async def one(text):
            async with session.post(f"{url}/chat/completions", json=body(text)) as response:
                return response.status

        statuses = await asyncio.gather(*(one(f"what is {place}") for place in range(64)))
        return statuses, backend.requests / backend.batches

    statuses, mean = serving(model, use)
    assert statuses == [200] * 64
    assert mean > 4


def test_openai_s_client_is_served(model):
    openai = pytest.importorskip("openai")

    async def use(session, url, backend):
        client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
        models = [entry.id async for entry in client.models.list()]
        reply = await client.chat.completions.create(**body())
        stream = await client.chat.completions.create(**body(stream=True))
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        with pytest.raises(openai.BadRequestError, match="temperature"):
            await client.chat.completions.create(**body(temperature=3))
        with pytest.raises(openai.NotFoundError, match="model"):
            await client.chat.completions.create(**body(model="other"))
        await client.close()
        return models, reply.choices[0].message.content, "".join(pieces)

    models, whole, streamed = serving(model, use)
    assert models == ["toy"]
    assert whole == streamed


# -- answers that follow a schema ---------------------------------------------------------------------------

VERDICT = {
    "type": "object",
    "properties": {
        "verdict": {"type": "string", "enum": ["unsafe", "refusal"]},
        "sure": {"type": "boolean"},
    },
    "required": ["verdict", "sure"],
    "additionalProperties": False,
}


def test_random_weights_follow_a_schema(model):
    pytest.importorskip("llguidance")
    requests = [request._replace(schema=VERDICT, max_tokens=40) for request in asked(9, 1.0)]
    texts, _ = answers(model, requests, True)
    found = [json.loads(text) for text in texts]
    assert all(not mismatch(value, VERDICT) for value in found)
    assert len({(value["verdict"], value["sure"]) for value in found}) > 1
    alone, _ = answers(model, requests, False)
    assert alone == texts


def test_what_no_schema_rules_out_is_what_is_written_without(model):
    """A grammar of anything leaves the draws as they are: both loops agree token by token."""
    pytest.importorskip("llguidance")
    prompt = Prompt(model.tokens_of(asked(1)[0].messages), 6, 0.8, 5)
    shape = model.shape(prompt)
    free = model.write([prompt], shape)

    class Anything:
        vocabulary = model.config.vocabulary

        def start(self, schema):
            return self

        def allowed(self, matchers):
            return np.ones((len(matchers), self.vocabulary), bool)

        def is_stopped(self):
            return False

        def consume_token(self, token):
            pass

    writer = HeldWriter(model.model, model.params, Anything())
    start = np.asarray([shape.length - len(prompt.tokens)], np.int32)
    tokens = np.zeros((1, shape.length), np.int32)
    tokens[0, start[0] :] = prompt.tokens
    key = jax.vmap(jax.random.key)(jnp.asarray([5], jnp.uint32))
    held = writer(tokens, start, 6, np.asarray([0.8], np.float32), key, [{}])
    assert model.tokenizer.end not in held[0]
    assert held == free


def test_the_server_holds_answers_to_a_schema(model):
    pytest.importorskip("llguidance")
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": VERDICT}}
    status, said = post(model, body(response_format=form, max_tokens=40, temperature=1.0))
    assert status == 200
    assert not mismatch(json.loads(said["choices"][0]["message"]["content"]), VERDICT)
    wrong = {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}
    status, said = post(model, body(response_format=wrong))
    assert (status, said["error"]["message"][:15]) == (400, "response_format")
