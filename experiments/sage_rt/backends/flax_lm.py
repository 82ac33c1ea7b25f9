"""A Flax model in this process as a backend: requests that wait together are answered together."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import NamedTuple

from experiments.sage_rt.backends.base import Reply, Request
from experiments.sage_rt.chat_model import BATCHES, ChatModel, Prompt, Shape

_WAIT = 0.005  # seconds for others to come, while a batch is not full


class _Waiting(NamedTuple):
    prompt: Prompt
    shape: Shape
    answer: asyncio.Future[list[int]]

    @property
    def kind(self) -> tuple[Shape, bool]:
        """Of what can be in one batch."""
        return self.shape, self.prompt.schema is not None


class FlaxBackend:
    """Answers with a model that ``load`` gives, when it is asked first.

    ``name`` is the weights' digest. Answers to requests with a schema follow it. The seed of an answer is of
    its request's id; batches are of requests that pad to one shape, the oldest first. ``requests`` and
    ``batches`` count.
    """

    def __init__(self, load: Callable[[], ChatModel], concurrency: int = 256) -> None:
        self._load, self.concurrency = load, concurrency
        self.requests = self.batches = 0
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None
        self._device = ThreadPoolExecutor(1, thread_name_prefix="model")

    @cached_property
    def model(self) -> ChatModel:
        """The model."""
        return self._load()

    @property
    def name(self) -> str:
        """Of the weights."""
        return f"flax:{self.model.name}"

    async def reply(self, request: Request) -> Reply:
        """What the model says; an "error" for conversations that are too long for it."""
        begun = time.monotonic()
        try:
            tokens = self.model.tokens_of(request.messages)
            seed = int(request.id[:8], 16)
            prompt = Prompt(tokens, request.max_tokens, request.temperature, seed, request.schema)
            shape = self.model.shape(prompt)
        except ValueError as error:
            return Reply("error", reason=str(error))
        answer: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(prompt, shape, answer))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        found = await answer
        reply = self._as_reply(found, request, len(tokens))
        return reply._replace(seconds=time.monotonic() - begun)

    async def close(self) -> None:
        """Stop working; a batch that runs is not waited for."""
        if self._worker is not None:
            self._worker.cancel()
            self._worker = None
        self._waiting.clear()

    def _as_reply(self, found: list[int], request: Request, asked: int) -> Reply:
        text = self.model.decode(found)
        counts = {"prompt_tokens": asked, "completion_tokens": len(found)}
        if len(found) >= request.max_tokens and found[-1:] != [self.model.tokenizer.end]:
            return Reply("length", text, **counts)
        return Reply("ok" if text else "empty", text, **counts)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            if len(self._waiting) < BATCHES[-1]:
                await asyncio.sleep(_WAIT)
            some = self._take()
            try:
                prompts = [one.prompt for one in some]
                found = await loop.run_in_executor(self._device, self.model.write, prompts, some[0].shape)
            except Exception as error:
                for one in _still_asking(some):
                    one.answer.set_exception(error)
                continue
            answers = {id(one): tokens for one, tokens in zip(some, found, strict=True)}
            for one in _still_asking(some):
                one.answer.set_result(answers[id(one)])

    def _take(self) -> list[_Waiting]:
        """Of those like the oldest one, in shape and in having a schema, as many as a batch holds."""
        kind = self._waiting[0].kind
        some = [one for one in self._waiting if one.kind == kind][: BATCHES[-1]]
        taken = {id(one) for one in some}
        self._waiting = [one for one in self._waiting if id(one) not in taken]
        self.requests += len(some)
        self.batches += 1
        return some


def _still_asking(some: list[_Waiting]) -> list[_Waiting]:
    return [one for one in some if not one.answer.done()]
