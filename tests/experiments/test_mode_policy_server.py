"""The server: answers with their numbers, one batch for those that wait, no client that stalls others."""

import http.client
import json
import socket
import threading
import time

import numpy as np
import pytest
from launching import launch_module

from experiments.mode_policy import server
from experiments.mode_policy.policy import About, Policy

ABOUT = About(("reach", "push"), 1, 3, 5, 2)
OBSERVATION = {"state": [1.0, 0, 0], "task": "push"}


class Slow:
    """Answers ``100 state + seed`` once the gate is open; keeps the sizes of its batches."""

    def __init__(self):
        self.gate, self.sizes = threading.Event(), []
        self.gate.set()

    def __call__(self, seeds, seen, task):
        self.gate.wait(20)
        self.sizes.append(len(seeds))
        return (
            np.zeros((len(seeds), 5, 2)) + 100 * seen["state"][:, :1, :1] + np.asarray(seeds)[:, None, None]
        )


class Client:
    """Requests to a server that runs in a thread."""

    def __init__(self, options=server.Options()):  # noqa: B008, a tuple
        self.run = Slow()
        self.server = server.make_server(Policy(self.run, ABOUT), "127.0.0.1", 0, options)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def send(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        content = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        connection.request(method, path, content, headers)
        reply = connection.getresponse()
        found = reply.status, json.loads(reply.read())
        connection.close()
        return found

    def ask(self, number, **more):
        return self.send("POST", "/infer", {"request_id": number, "observation": OBSERVATION, **more})


@pytest.fixture
def client():
    made = Client()
    yield made
    made.run.gate.set()
    made.server.shutdown()
    made.server.server_close()


def together(calls):
    """Run the calls in threads; their results in order."""
    results = [None] * len(calls)

    def run(index):
        results[index] = calls[index]()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    return threads, results


def until(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that")


def test_answers_carry_their_requests_number(client):
    status, found = client.ask("a7", seed=3)
    assert (status, found["request_id"]) == (200, "a7")
    np.testing.assert_allclose(found["actions"], np.full((5, 2), 103.0))
    batch = {"request_id": 8, "observations": [OBSERVATION] * 3, "seeds": [1, 2, 3]}
    status, found = client.send("POST", "/infer_batch", batch)
    assert (status, found["request_id"]) == (200, 8)
    np.testing.assert_allclose(np.asarray(found["actions"])[:, 0, 0], [101, 102, 103])


def test_about_and_health(client):
    assert client.send("GET", "/about") == (200, {**ABOUT._asdict(), "tasks": ["reach", "push"]})
    assert client.send("GET", "/healthz") == (200, {"status": "ok", "waiting": 0})


def test_those_that_wait_are_answered_together(client):
    client.run.gate.clear()
    first, _ = together([lambda: client.ask(0)])
    until(lambda: client.send("GET", "/healthz")[1]["waiting"] == 0 and first[0].is_alive())
    time.sleep(0.1)
    rest, found = together([lambda n=n: client.ask(n, seed=n) for n in range(1, 5)])
    until(lambda: client.send("GET", "/healthz")[1]["waiting"] == 4)
    client.run.gate.set()
    for thread in (*first, *rest):
        thread.join(20)
    assert client.run.sizes == [1, 4]
    assert [(reply["request_id"], reply["batch"]) for _, reply in found] == [(n, 4) for n in range(1, 5)]
    np.testing.assert_allclose([reply["actions"][0][0] for _, reply in found], [101, 102, 103, 104])


def test_a_full_queue_refuses_at_once():
    client = Client(server.Options(queue=1))
    client.run.gate.clear()
    threads, _ = together([lambda: client.ask(0)])
    time.sleep(0.2)
    more, _ = together([lambda: client.ask(1)])
    until(lambda: client.send("GET", "/healthz")[1]["waiting"] == 1)
    begun = time.monotonic()
    status, found = client.ask(2)
    assert (status, time.monotonic() - begun < 2) == (503, True)
    assert "queue: got 1 that wait" in found["error"]
    client.run.gate.set()
    for thread in (*threads, *more):
        thread.join(20)
    client.server.shutdown()


def test_a_client_that_stops_half_way_stalls_nobody(client, monkeypatch):
    monkeypatch.setattr(client.server.RequestHandlerClass, "timeout", 0.5)
    with socket.create_connection(("127.0.0.1", client.port)) as half:
        half.sendall(b"POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        begun = time.monotonic()
        assert client.ask(1)[0] == 200
        assert time.monotonic() - begun < 0.5
        half.settimeout(10)
        assert b" 408 " in half.recv(4096)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{", "body: got"),
        ("[1]", "body: got 'list'"),
        ({"observation": OBSERVATION}, "'request_id' among the keys"),
        ({"request_id": 1, "observation": OBSERVATION, "sed": 1}, "body: got 'sed'"),
        ({"request_id": 1, "observation": [1]}, "observation: got 'list'"),
        ({"request_id": 1, "observation": {**OBSERVATION, "state": [1, 2]}}, "state: shape: got (2,)"),
        ({"request_id": 1, "observation": {**OBSERVATION, "state": ["a", 0, 0]}}, "state: got"),
        ({"request_id": 1, "observation": {**OBSERVATION, "state": [1e300, 0, 0]}}, "NaN or infinity"),
        ('{"request_id": 1, "observation": {"state": [NaN, 0, 0], "task": 0}}', "NaN or infinity"),
        ({"request_id": 1, "observation": {**OBSERVATION, "task": "dance"}}, "task: got 'dance'"),
        ({"request_id": 1, "observation": OBSERVATION, "seed": -1}, "seed: got -1"),
    ],
)
def test_bad_requests_name_the_field(client, body, message):
    status, found = client.send("POST", "/infer", body)
    assert status == 400
    assert message in found["error"]
    assert client.run.sizes == []


def test_a_bad_request_is_refused_while_others_wait(client):
    """It never gets into a batch, where it would spoil the answers of others."""
    client.run.gate.clear()
    threads, found = together([lambda: client.ask(0)])
    begun = time.monotonic()
    assert client.ask(1, observation={**OBSERVATION, "task": "dance"})[0] == 400
    assert time.monotonic() - begun < 2
    client.run.gate.set()
    for thread in threads:
        thread.join(20)
    assert found[0][0] == 200


def test_strange_callers_are_refused(client):
    assert client.send("GET", "/about", Host="evil.example")[0] == 400
    assert client.send("GET", "/about", Origin="http://evil.example")[0] == 400
    assert client.send("GET", "/other")[0] == 404
    assert client.send("POST", "/infer", "x", **{"Content-Length": str(2**30)})[0] == 413


def test_tokens():
    client = Client(server.Options(token="s" * 20))
    assert client.send("GET", "/about")[0] == 401
    assert client.send("GET", "/about", Authorization="Bearer " + "t" * 20)[0] == 401
    assert client.send("GET", "/about", Authorization="Bearer " + "s" * 20)[0] == 200
    client.server.shutdown()


def test_a_fault_of_the_network_does_not_end_the_server(client):
    client.run.sizes = None  # its next answer raises
    status, found = client.ask(1)
    assert status == 500
    assert "AttributeError" in found["error"]
    client.run.sizes = []
    assert client.ask(2)[0] == 200


def test_other_addresses_need_a_token():
    done = launch_module("experiments.mode_policy.serve", workdir="runs/none", host="0.0.0.0")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: --host: got '0.0.0.0', allowed: 127.0.0.1, or another with --token_file"
    ]
