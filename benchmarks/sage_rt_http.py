"""Requests to a model behind HTTP: throughput against how many are in flight, processor time beside `openai`.

    python benchmarks/sage_rt_http.py [--peer_python=PYTHON_WITH_OPENAI]

The server, in a process of its own, answers every request after 200 ms. Ratios are of throughput to one
request at a time; processor time is of the client's process for each request with 64 in flight, the least of
``--repeats`` runs, each client in a process of its own that takes a first batch to warm up.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests" / "experiments")]

SECONDS = 0.2
FLYING = (1, 16, 64)


def serve(port: Any) -> None:
    """The server, until it is ended; its port is put in a queue."""
    from scripted_server import scripted_server

    async def run() -> None:
        async with scripted_server(seconds=SECONDS) as server:
            port.put(server.url)
            await asyncio.Event().wait()

    asyncio.run(run())


async def ours(url: str, flying: int, count: int) -> dict[str, float]:
    """Throughput and processor seconds of ``HttpBackend``."""
    from experiments.sage_rt.backends.base import Message, Request
    from experiments.sage_rt.backends.http import HttpBackend

    backend = HttpBackend(url, "m", concurrency=flying)

    async def ask(number: int) -> None:
        reply = await backend.reply(Request(f"{number}", (Message("user", f"plum {number}"),)))
        assert reply.status == "ok", reply

    found = await measured(ask, flying, count)
    await backend.close()
    return found


async def theirs(url: str, flying: int, count: int) -> dict[str, float]:
    """The same of the ``openai`` package."""
    import openai

    client, room = openai.AsyncOpenAI(base_url=url, api_key="none"), asyncio.Semaphore(flying)

    async def ask(number: int) -> None:
        said: Any = [{"role": "user", "content": f"plum {number}"}]
        async with room:
            await client.chat.completions.create(model="m", messages=said, max_tokens=256, temperature=0)

    return await measured(ask, flying, count)


async def measured(ask: Any, flying: int, count: int) -> dict[str, float]:
    """After as many requests as may be in flight, ``count`` of them."""
    await asyncio.gather(*map(ask, range(flying)))
    begun, spent = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(ask, range(count)))
    seconds, spent = time.perf_counter() - begun, time.process_time() - spent
    return {"rate": count / seconds, "cpu_ms": 1e3 * spent / count}


def main() -> None:
    """Print the tables."""
    import common

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", type=int, default=1280, help="for processor time")
    parser.add_argument("--limit", type=float, default=300.0)
    parser.add_argument("--peer_python", default=sys.executable, help="a Python with openai and aiohttp")
    parser.add_argument("--task", help="for the client's own process")
    options = parser.parse_args()
    if options.task:
        kind, *case = json.loads(options.task)
        print(json.dumps(asyncio.run({"ours": ours, "theirs": theirs}[kind](*case))))
        return
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    server = context.Process(target=serve, args=(queue,), daemon=True)
    server.start()
    url = queue.get(timeout=60)
    rates = [
        statistics.median(asyncio.run(ours(url, n, 4 * n))["rate"] for _ in range(options.repeats))
        for n in FLYING
    ]
    ratios = [rate / rates[0] for rate in rates]
    common.print_table([{"in flight": n, "1/s": r, "ratio": q} for n, r, q in zip(FLYING, rates, ratios)])
    peer, options.peer_python = options.peer_python, sys.executable
    found = {"ours": [], "theirs": []}
    for _ in range(options.repeats):
        for kind, python in (("ours", sys.executable), ("theirs", peer)):
            options.peer_python = python
            found[kind].append(common.ask_peer(__file__, [kind, url, 64, options.requests], options))
    server.terminate()
    rows = [
        {"client": name, "cpu ms": min(f["cpu_ms"] for f in some), "1/s": max(f["rate"] for f in some)}
        for name, some in (("HttpBackend", found["ours"]), ("openai", found["theirs"]))
        if all(some)
    ]
    common.print_table([row | {"ratio": row["cpu ms"] / rows[0]["cpu ms"]} for row in rows])


if __name__ == "__main__":
    main()
