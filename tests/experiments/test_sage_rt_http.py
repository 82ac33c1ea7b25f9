"""Requests over HTTP: every one ends, faults are tried again as they should be, keys stay hidden."""

import asyncio
import json
import pickle
import time
import traceback

import pytest
from scripted_server import closed_port, digest_of, scripted_server, seeded_plan

from experiments.sage_rt.backends.base import Message, Reply, Request
from experiments.sage_rt.backends.http import HttpBackend
from experiments.sage_rt.limiter import Limiter

KEY = "canary-0123456789/abc"
NAME = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
FAULTS = ("429", "500", "502", "503", "408", "drop", "slow", "stall", "silent", "truncated", "html", "list")


def request(number=0, schema=None):
    return Request(f"id{number}", (Message("user", f"plum {number}"),), schema=schema)


def digest(number):
    return digest_of([{"role": "user", "content": f"plum {number}"}])


def ask(plan, count=1, seconds=0.0, schema=None, breaker=20, start=0, **options):
    """Replies to ``count`` requests, the server, the backend after all of it."""

    async def run():
        async with scripted_server(plan, seconds) as server:
            most = options.get("concurrency", 16)
            limiter = Limiter(start or most, most, breaker=breaker)
            backend = HttpBackend(server.url, "m", limiter=limiter, **{"backoff": 0.01, **options})
            replies = await asyncio.gather(*(backend.reply(request(n, schema)) for n in range(count)))
            await backend.close()
            return replies, server, backend

    return asyncio.run(run())


def always(action):
    return lambda digest, count: action


def in_turn(*actions):
    return lambda digest, count: actions[min(count, len(actions) - 1)]


def test_all_end_whatever_the_faults():
    plan = seeded_plan(3, FAULTS, share=0.5)
    replies, server, _ = ask(plan, 60, concurrency=12, stall=0.25)
    sent = [sum(seen.digest == digest(n) for seen in server.log) for n in range(60)]
    assert {seen.action for seen in server.log} == {"ok", *FAULTS}
    assert [(reply.status, reply.text) for reply in replies] == [
        ("ok", f"reply to plum {n}") for n in range(60)
    ]
    assert [reply.attempts for reply in replies] == sent
    assert server.most[0] <= 12 + len(FAULTS)  # the server learns late that a stalled one was given up


def test_retry_after_holds_all_and_ends_on_time():
    async def after(action):
        async with scripted_server(in_turn(action, "ok")) as server:
            backend = HttpBackend(server.url, "m", concurrency=1, backoff=4.0)
            replies = await asyncio.gather(*(backend.reply(request(n)) for n in range(2)))
            await backend.close()
            assert [reply.status for reply in replies] == ["ok", "ok"]
            return [seen.time for seen in server.log]

    async def run():
        return await asyncio.gather(*map(after, ("429 1", "503 1", "429 date 2")))

    seconds, gateway, date = asyncio.run(run())
    for first, *others in (seconds, gateway):
        assert 1.0 <= others[0] - first < 2.0  # of the two requests either may be the next
    named = int(date[0] + 2)  # HTTP dates are whole seconds
    assert -0.01 <= date[1] - named < 1.0


@pytest.mark.parametrize(("status", "limit"), [("500", 8), ("502", 8), ("503", 8), ("429", 6)])
def test_only_429_lowers_the_limit(status, limit):
    replies, server, backend = ask(in_turn(status, "ok"), 8, seconds=0.02, concurrency=8)
    assert all(reply.status == "ok" and reply.attempts == 2 for reply in replies)
    assert (backend.limiter.limit, len(server.log)) == (limit, 16)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 418, 422])
def test_refusals_are_not_tried_again(status):
    (reply,), server, _ = ask(always(str(status)))
    assert (reply.status, reply.reason, reply.attempts) == ("error", f"{status}: not now", 1)
    assert len(server.log) == 1


def test_redirects_are_not_followed():
    (reply,), server, _ = ask(always("redirect"))
    assert reply.status == "error"
    assert "redirect" in reply.reason
    assert [seen.action for seen in server.log] == ["redirect"]


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("503", "2 attempts, the last: 503"),
        ("html", "no JSON"),
        ("no choices", "JSON without choices"),
        ("list", "JSON that is no object"),
        ("stall", "stalled: no byte for 0.2 s"),
        ("silent", "stalled: no byte for 0.2 s"),
        ("truncated", "a body that ends early"),
        ("drop", "ServerDisconnectedError"),
    ],
)
def test_what_never_ends_well_ends_in_an_error(action, reason):
    (reply,), server, backend = ask(always(action), attempts=2, stall=0.2)
    assert (reply.status, reply.attempts, len(server.log)) == ("error", 2, 2)
    assert reason in reply.reason
    assert backend.limiter.active == 0


def test_no_body_is_read_without_end():
    (reply,), server, _ = ask(always("huge"), most_bytes=2**16)
    assert (reply.status, len(server.log)) == ("error", 1)
    assert "a body of more than 65536 bytes" in reply.reason


def test_nobody_there_breaks_the_circuit():
    async def run():
        url = f"http://127.0.0.1:{closed_port()}/v1"
        limiter = Limiter(2, 2, breaker=3)
        backend = HttpBackend(url, "m", attempts=2, backoff=0.001, limiter=limiter)
        replies = await asyncio.gather(*(backend.reply(request(n)) for n in range(20)))
        await backend.close()
        return replies

    replies = asyncio.run(run())
    assert {reply.status for reply in replies} == {"error"}
    assert sum("nothing more is sent" in reply.reason for reply in replies) >= 10
    assert replies[0].reason.startswith("2 attempts, the last: no connection")


def test_a_bad_key_breaks_the_circuit():
    replies, server, _ = ask(always("401"), 30, breaker=3, concurrency=2)
    assert len(server.log) <= 4
    assert replies[-1].reason == "3 failures in a row, nothing more is sent: 401: not now"
    assert replies[-1].attempts == 0
    _, server, _ = ask(always("400"), 30, breaker=3, concurrency=2)
    assert len(server.log) == 30  # a fault of the request, not of the endpoint


def test_what_does_not_follow_its_schema_is_asked_for_twice_again():
    (reply,), server, _ = ask(always('text {"name": 3'), schema=NAME)
    assert (reply.status, reply.attempts, reply.completion_tokens) == ("malformed", 3, 9)
    bodies = [seen.body for seen in server.log]
    assert len({body["seed"] for body in bodies}) == 3
    assert len({json.dumps({**body, "seed": 0}) for body in bodies}) == 1  # a bad reply is never sent back
    assert bodies[0]["response_format"]["json_schema"]["schema"] == NAME


def test_a_later_draw_may_follow_the_schema():
    plan = in_turn("text no", "503", 'text {"name": "plum"}')
    (reply,), server, _ = ask(plan, schema=NAME)
    assert (reply.status, reply.text, reply.attempts) == ("ok", '{"name": "plum"}', 3)
    (reply,), server, _ = ask(always("text no"))
    assert (reply.status, len(server.log)) == ("ok", 1)  # without a schema anything is a reply


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("length", Reply("length", "reply to plum 0")),
        ("filter", Reply("blocked", "reply to plum 0", "content_filter")),
        ("refusal", Reply("ok", "I would rather not.")),
        ("empty", Reply("empty")),
    ],
)
def test_statuses(action, expected):
    (reply,), server, _ = ask(always(action))
    assert reply[:3] == expected[:3]
    assert (reply.prompt_tokens, reply.completion_tokens, len(server.log)) == (5, 3, 1)


def test_half_a_surrogate_pair_can_be_written():
    (reply,), _, _ = ask(always("surrogate"))
    assert reply.text.encode()


def test_the_clock_starts_at_the_send():
    replies, _, _ = ask(always("ok"), 6, seconds=0.15, concurrency=1, timeout=0.5)
    assert [reply.status for reply in replies] == ["ok"] * 6  # the last waits for 0.75 s
    assert all(0.14 < reply.seconds < 0.45 for reply in replies)


def test_an_attempt_ends_at_its_time():
    begun = time.monotonic()
    (reply,), _, _ = ask(always("silent"), timeout=0.2, attempts=2)
    assert "no whole answer within 0.2 s" in reply.reason
    assert time.monotonic() - begun < 2


def test_the_key_is_read_at_each_send(monkeypatch):
    async def run():
        async with scripted_server() as server:
            backend = HttpBackend(server.url, "m", key_env="SAGE_KEY")
            for key in ("first-key", "second-key"):
                monkeypatch.setenv("SAGE_KEY", key)
                await backend.reply(request())
            await backend.close()
            return [seen.authorization for seen in server.log]

    assert asyncio.run(run()) == ["Bearer first-key", "Bearer second-key"]


@pytest.mark.parametrize("action", ["echo", f"text you sent {KEY} to me"])
def test_what_the_server_sends_back_of_the_key_is_taken_out(monkeypatch, action):
    monkeypatch.setenv("SAGE_KEY", KEY)
    (reply,), server, backend = ask(always(action), key_env="SAGE_KEY")
    assert server.log[0].authorization == f"Bearer {KEY}"
    assert KEY[:10] not in repr((reply, backend, vars(backend)))
    assert KEY.encode() not in pickle.dumps(backend)


def test_a_key_that_cannot_be_sent_is_not_shown(monkeypatch):
    monkeypatch.setenv("SAGE_KEY", f"{KEY}\x07")
    with pytest.raises(ValueError, match=r"\$SAGE_KEY: got '\[key\]'") as error:
        ask(always("ok"), key_env="SAGE_KEY")
    assert KEY not in "".join(traceback.format_exception(error.value))
    monkeypatch.delenv("SAGE_KEY")
    with pytest.raises(ValueError, match=r"\$SAGE_KEY: got '', allowed: a key"):
        ask(always("ok"), key_env="SAGE_KEY")


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/v1",
        "http://192.168.1.2/v1",
        "http://example.org/v1",
        "http://127.0.0.1.example.org/v1",
        "http://localhost@example.org/v1",
        "http://0x7f000001.example/v1",
        "ftp://127.0.0.1/v1",
        "http:///v1",
        "http://[::1/v1",
        "http://127.0.0.1:99999/v1",
        "",
    ],
)
def test_addresses_elsewhere_are_refused(url):
    with pytest.raises(ValueError, match=r"^url.*allowed"):
        HttpBackend(url, "m")


@pytest.mark.parametrize(
    "url", ["http://u:{}@127.0.0.1/v1", "http://127.0.0.1/v1?key={}", "http://[::1]/#{}"]
)
def test_addresses_with_more_than_a_place_are_refused(url):
    with pytest.raises(ValueError, match="no user, query or fragment") as error:
        HttpBackend(url.format("hidden"), "m")
    assert "hidden" not in str(error.value)


def test_hosts_may_be_named():
    assert HttpBackend("https://example.org/v1/", "m", allow_hosts=["Example.org"]).name == (
        "m@https://example.org/v1/chat/completions"
    )
    for local in ("http://127.0.0.1:8000", "http://[::1]:8000", "http://localhost:8000/chat/completions"):
        assert HttpBackend(local, "m").name.endswith(":8000/chat/completions")


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"stall": -1}, {"attempts": 0}, {"concurrency": 0}, {"most_bytes": 0}]
)
def test_bad_options(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}.*allowed"):
        HttpBackend("http://127.0.0.1/v1", "m", **options)
    with pytest.raises(ValueError, match="model"):
        HttpBackend("http://127.0.0.1/v1", "")
