"""Chat completions over HTTP against a server that fails as a seeded plan says."""

import asyncio
import pickle
import time

import pytest
from scripted_server import closed_port, scripted_server, seeded_plan

from experiments.sage_rt.backends.base import Message, Request
from experiments.sage_rt.backends.http import HttpBackend
from experiments.sage_rt.limiter import Limiter
from experiments.sage_rt.tasks import digest

LIST = {"type": "array", "items": {"type": "string"}}
KEY = "sk-canary-0123456789"


def asked(number=0, schema=None):
    return Request(digest(number), (Message("user", f"question {number}"),), 16, 0.0, schema)


def run(plan, requests, *, seconds=0.0, **options):
    """Replies to all requests, sent together; the server's log and the backend."""

    async def go():
        async with scripted_server(plan, seconds) as server:
            backend = HttpBackend(server.url, "toy", **{"backoff": 0.01, "concurrency": 8, **options})
            try:
                replies = await asyncio.gather(*(backend.reply(request) for request in requests))
            finally:
                await backend.close()
            return replies, server.log, backend

    return asyncio.run(go())


def first(action):
    """A plan: the action once, then all is well."""
    return lambda digest, count: "ok" if count else action


def always(action):
    return lambda digest, count: action


# -- faults that pass ---------------------------------------------------------------------------------------


def test_every_request_ends_well_under_a_plan_of_faults():
    faults = ("429 0.05", "500", "502", "503", "drop", "truncated", "slow", "stall", "html")
    requests = [asked(number) for number in range(60)]
    replies, log, _ = run(seeded_plan(3, faults), requests, stall=0.3)
    assert [reply.status for reply in replies] == ["ok"] * 60
    assert [reply.text for reply in replies] == [f"reply to question {number}" for number in range(60)]
    assert sum(reply.attempts for reply in replies) == len(log) > 60


@pytest.mark.parametrize("action", ["429 1", "429 date 2"])
def test_retry_after_is_waited_for_and_little_more(action):
    _, log, _ = run(first(action), [asked()])
    waited = log[1].time - log[0].time
    least = 1.0  # a date has whole seconds: of two, between one and two are left
    assert least <= waited <= float(action.split()[-1]) + 1


def test_a_pause_holds_other_requests_too():
    def plan(digest, count):
        return "429 0.5" if not seen and not seen.append(digest) else "ok"

    seen = []
    _, log, _ = run(plan, [asked(number) for number in range(4)], concurrency=1)
    assert min(later.time - log[0].time for later in log[1:]) >= 0.5


@pytest.mark.parametrize(
    ("action", "smaller"), [("429 0.01", True), ("500", False), ("503", False), ("drop", False)]
)
def test_only_too_many_makes_the_limit_smaller(action, smaller):
    _, _, backend = run(first(action), [asked(number) for number in range(4)], concurrency=8)
    assert (backend.limiter.limit < 8) == smaller


def test_a_refused_connection_ends_as_an_error():
    async def go():
        url = f"http://127.0.0.1:{closed_port()}/v1"
        backend = HttpBackend(url, "toy", attempts=3, backoff=0.01)
        reply = await backend.reply(asked())
        await backend.close()
        return reply

    reply = asyncio.run(go())
    assert (reply.status, reply.attempts) == ("error", 3)
    assert "no connection" in reply.reason


# -- faults that stay ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_what_another_attempt_cannot_mend_is_asked_once(status):
    replies, log, _ = run(always(str(status)), [asked()])
    assert (replies[0].status, len(log)) == ("error", 1)
    assert replies[0].reason.startswith(str(status))


def test_a_redirect_is_not_followed():
    replies, log, _ = run(always("redirect"), [asked()])
    assert (replies[0].status, [seen.action for seen in log]) == ("error", ["redirect"])
    assert "307 redirect" in replies[0].reason


@pytest.mark.parametrize("action", ["silent", "stall"])
def test_a_stalled_answer_is_given_up(action):
    begun = time.monotonic()
    replies, log, _ = run(always(action), [asked()], stall=0.2, attempts=2)
    assert (replies[0].status, len(log)) == ("error", 2)
    assert "stalled: no byte for 0.2 s" in replies[0].reason
    assert time.monotonic() - begun < 3


def test_time_in_the_queue_is_not_counted():
    # 8 requests of 0.15 s one after another are longer than the time-out, which is for each
    replies, _, _ = run(
        always("ok"), [asked(number) for number in range(8)], seconds=0.15, timeout=0.6, concurrency=1
    )
    assert [reply.status for reply in replies] == ["ok"] * 8
    assert max(reply.seconds for reply in replies) < 0.6


def test_an_endpoint_that_turns_all_away_is_asked_no_more():
    requests = [asked(number) for number in range(40)]
    limiter = Limiter(2, 2, breaker=5)
    replies, log, _ = run(always("401"), requests, limiter=limiter)
    assert {reply.status for reply in replies} == {"error"}
    assert len(log) <= 7
    assert "nothing more is sent" in replies[-1].reason


@pytest.mark.parametrize(
    ("action", "status"),
    [("length", "length"), ("filter", "blocked"), ("empty", "empty"), ("refusal", "ok"), ("surrogate", "ok")],
)
def test_what_an_answer_amounts_to(action, status):
    replies, log, _ = run(always(action), [asked()])
    assert (replies[0].status, len(log)) == (status, 1)


def test_too_large_a_body_is_not_read():
    replies, _, _ = run(always("huge"), [asked()], most_bytes=2**16, attempts=2)
    assert "more than 65536 bytes" in replies[0].reason


# -- replies that have to follow a schema -------------------------------------------------------------------


def test_what_breaks_the_schema_is_asked_again_as_it_was():
    replies, log, _ = run(always("text no list"), [asked(schema=LIST)])
    assert (replies[0].status, len(log)) == ("malformed", 3)
    assert len({str(seen.body["messages"]) for seen in log}) == 1
    assert len({seen.body["seed"] for seen in log}) == 3


def test_one_good_draw_is_enough():
    def plan(digest, count):
        return 'text ["a"]' if count else "text {"

    replies, log, _ = run(plan, [asked(schema=LIST)])
    assert (replies[0].status, replies[0].text, len(log)) == ("ok", '["a"]', 2)
    assert replies[0].completion_tokens == 6  # of both attempts


# -- where requests may go, and with what key ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://example.com/v1", "loopback"),
        ("http://10.0.0.7/v1", "loopback"),
        ("http://user:secret@127.0.0.1/v1", "no user"),
        ("ftp://127.0.0.1/v1", "scheme"),
        ("", "scheme"),
        ("http://127.0.0.1:99999/v1", "port"),
        ("http://127.0.0.1@example.com/v1", "loopback"),
    ],
)
def test_addresses_that_are_refused(url, message):
    with pytest.raises(ValueError, match=message) as caught:
        HttpBackend(url, "toy")
    assert "secret" not in str(caught.value)


def test_a_host_that_was_named_is_allowed():
    assert "example.com" in HttpBackend("https://example.com/v1", "toy", allow_hosts=["example.com"]).name


def test_the_key_is_sent_and_seen_nowhere(monkeypatch):
    monkeypatch.setenv("TOY_KEY", KEY)
    replies, log, backend = run(always("echo"), [asked()], key_env="TOY_KEY")
    assert replies[0].status == "error"  # the server said the key aloud
    assert "[key]" in replies[0].reason
    shown = repr(replies) + repr(vars(backend)) + str(log[0].body)
    assert KEY not in shown
    assert "canary" not in shown
    assert KEY.encode() not in pickle.dumps(backend)


def test_a_key_that_is_not_there_is_named(monkeypatch):
    monkeypatch.delenv("TOY_KEY", raising=False)
    with pytest.raises(ValueError, match=r"\$TOY_KEY: got '', allowed: a key"):
        run(always("ok"), [asked()], key_env="TOY_KEY")
