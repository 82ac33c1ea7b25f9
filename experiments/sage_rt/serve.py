"""A model of this project behind an OpenAI-compatible endpoint on this machine.

    python -m experiments.sage_rt.serve --model=DIR [--port=8000] [--name=NAME]
    python -m experiments.sage_rt.serve --workdir=DIR          # a run's target, where that is a Flax model

``DIR`` is a checkpoint in the layout of Hugging Face, compressed or not, with its tokenizer. Requests that
come together are answered together. There are ``/v1/chat/completions``, whole or as a stream whose pieces
follow when the answer is done, and ``/v1/models``. SIGTERM ends it with status 0."""

import asyncio
import ipaddress
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from absl import flags

from diffax.checks import require
from diffax.data.optional import optional_import
from experiments import main
from experiments.progress import say
from experiments.sage_rt import completions
from experiments.sage_rt.backends.flax_lm import FlaxBackend
from experiments.sage_rt.chat_model import ChatModel
from experiments.sage_rt.completions import complaint

_MOST_BYTES = 2**22  # of a request


def program(argv: Sequence[str]) -> None:
    """Serve until SIGTERM or SIGINT."""
    values = flags.FLAGS.flag_values_dict()
    require(bool(values["model"]) != bool(values["workdir"]), "--model", values["model"], "it or --workdir")
    host, port = values["host"], values["port"]
    require(_is_loopback(host) or host in values["allow_host"], "--host", host, "a loopback, or --allow_host")
    require(0 <= port < 2**16, "--port", port, "0 (a free one) .. 65535")
    main.start_jax()
    if values["model"]:
        serve_on(FlaxBackend(lambda: ChatModel.read(values["model"])), values["name"], host, port)
        return
    from experiments.sage_rt import session

    with session.open_run(["target"]) as run:
        backend = run.backends["target"]
        kind = run.config.target.kind
        require(isinstance(backend, FlaxBackend), "config.target.kind", kind, "flax, to be served")
        assert isinstance(backend, FlaxBackend)
        serve_on(backend, values["name"], host, port)


def serve_on(backend: FlaxBackend, name: str, host: str, port: int) -> None:
    """Run the server until a signal."""
    assert backend.model is not None  # read before anybody may ask
    asyncio.run(_serve(backend, name, host, port))


def make_app(backend: FlaxBackend, name: str) -> Any:
    """The ``aiohttp`` application."""
    web = optional_import("aiohttp.web", "safety")
    app = web.Application(client_max_size=_MOST_BYTES, middlewares=[web.middleware(_in_their_words)])

    async def models(request: Any) -> Any:
        entry = {"id": name, "object": "model", "created": 0, "owned_by": "diffax"}
        return web.json_response({"object": "list", "data": [entry]})

    async def chat(request: Any) -> Any:
        asked = completions.read(json.loads(await request.read()), name)
        replies = await asyncio.gather(*(backend.reply(one) for one in asked.requests))
        wrong = next((reply.reason for reply in replies if reply.status == "error"), "")
        if wrong:
            return web.json_response(complaint(wrong, code="context_length_exceeded"), status=400)
        if not asked.stream:
            return web.json_response(completions.whole(name, asked, replies))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for event in completions.pieces(name, asked, replies):
            await response.write(event.encode())
        return response

    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", chat)
    return app


async def _in_their_words(request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
    """Errors as clients expect them."""
    web = optional_import("aiohttp.web", "safety")
    try:
        return await handler(request)
    except completions.Missing as error:
        return web.json_response(complaint(str(error), code="model_not_found"), status=404)
    except (ValueError, RecursionError) as error:  # what is no JSON is a ValueError, too
        return web.json_response(complaint(str(error)), status=400)
    except web.HTTPException as error:
        return web.json_response(complaint(f"{request.path}: {error.reason}"), status=error.status)


async def _serve(backend: FlaxBackend, name: str, host: str, port: int) -> None:
    web = optional_import("aiohttp.web", "safety")
    runner = web.AppRunner(make_app(backend, name), access_log=None, shutdown_timeout=5.0)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    say(f"serving {name} at http://{host}:{runner.addresses[0][1]}/v1", sys.stdout)
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    await over.wait()
    await runner.cleanup()
    await backend.close()
    if backend.batches:
        say(f"{backend.requests} requests in {backend.batches} batches", sys.stdout)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    from experiments.sage_rt.session import define_flags

    define_flags()
    flags.DEFINE_string("model", "", "folder of a checkpoint with its tokenizer")
    flags.DEFINE_string("name", "model", "what clients call it")
    flags.DEFINE_string("host", "127.0.0.1", "address to listen at")
    flags.DEFINE_integer("port", 8000, "0: a free one")
    sys.exit(main.run(program))
