"""The client of chat completions beside OpenAI's: throughput by requests in flight, CPU time a request.

    python benchmarks/chat_client.py [--peer_python=PYTHON_WITH_OPENAI]

A server in a process of its own answers each request after 200 ms. Throughput is requests a second, from the
first to the last answer, also as a multiple of one after another; CPU time is that of the client's process,
user and system, from a warm start.
"""

import argparse
import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

SECONDS = 0.2


def serve() -> None:
    """Print the port, then answer."""
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(SECONDS)
        message = {"role": "assistant", "content": "an answer of a few words"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": "toy", "choices": [choice]}
        return web.json_response({**body, "usage": usage})

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())


def cpu() -> float:
    """Seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure(ask: Callable[[int], Awaitable[object]], flying: int, count: int) -> tuple[float, float]:
    """Requests a second and CPU seconds a request."""
    room = asyncio.Semaphore(flying)

    async def one(number: int) -> None:
        async with room:
            await ask(number)

    await asyncio.gather(*(one(number) for number in range(min(flying, 8))))  # connections, imports
    begun, used = time.monotonic(), cpu()
    await asyncio.gather(*(one(number) for number in range(count)))
    return count / (time.monotonic() - begun), (cpu() - used) / count


def ours(url: str) -> None:
    """A line for each number of requests in flight."""
    from experiments.sage_rt.backends.base import Message, Request
    from experiments.sage_rt.backends.http import HttpBackend
    from experiments.sage_rt.tasks import digest

    async def run() -> None:
        serial = 0.0
        for flying, count in ((1, 25), (16, 480), (64, 1920), (256, 5120)):
            backend = HttpBackend(url, "toy", concurrency=flying)

            async def ask(number: int, backend: HttpBackend = backend) -> None:
                messages = (Message("user", f"a question of a few words {number}"),)
                reply = await backend.reply(Request(digest(number), messages, 16))
                assert reply.status == "ok", reply

            rate, used = await measure(ask, flying, count)
            serial = serial or rate
            print(f"ours, {flying} in flight: {rate:.1f}/s, {rate / serial:.1f}x, {1e3 * used:.2f} ms CPU")
            await backend.close()

    asyncio.run(run())


def peer(url: str) -> None:
    """The same by OpenAI's client."""
    import openai

    async def run() -> None:
        for flying, count in ((16, 320), (64, 640)):
            client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)

            async def ask(number: int, client: openai.AsyncOpenAI = client) -> None:
                turn = {"role": "user", "content": f"a question of a few words {number}"}
                await client.chat.completions.create(model="toy", messages=[turn], max_tokens=16)

            rate, used = await measure(ask, flying, count)
            print(f"openai {openai.__version__}, {flying} in flight: {rate:.1f}/s, {1e3 * used:.2f} ms CPU")
            await client.close()

    asyncio.run(run())


def main() -> None:
    """Start the server, then both clients, one after the other, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer_python", default=sys.executable)
    parser.add_argument("--part", choices=("serve", "ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        {"serve": serve, "ours": lambda: ours(options.url), "peer": lambda: peer(options.url)}[options.part]()
        return
    words = [sys.executable, __file__, "--part=serve"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
    try:
        for python, part in ((sys.executable, "ours"), (options.peer_python, "peer")):
            subprocess.run([python, __file__, f"--part={part}", f"--url={url}"], check=True)
    finally:
        server.kill()


if __name__ == "__main__":
    main()
