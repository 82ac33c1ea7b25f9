"""The server behind ``serve``: threads read requests, one thread runs the network on those that wait."""

import base64
import hmac
import json
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import UInt8

from diffax import checks
from diffax.data.decode import decode_image
from experiments.mode_policy.policy import Policy

_MOST_BYTES = 2**22
_PATIENCE = 10.0  # seconds that a client may be silent in the middle of a request
_LONGEST = 120.0  # seconds for an answer: the first of a size compiles
_CONNECTIONS = 128
_LOCAL = ("127.0.0.1", "localhost", "::1")


class Options(NamedTuple):
    """``token`` that clients must send ("" for none), requests that may wait, observations of one batch."""

    token: str = ""
    queue: int = 64
    batch: int = 32


class Refusal(Exception):
    """A status and a line for the client."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Job(NamedTuple):
    observations: list[dict[str, Any]]
    seeds: list[int]
    result: "Future[dict[str, Any]]"


class Desk:
    """A bounded queue in front of a policy; :meth:`ask` waits for the answer, :meth:`run` gives them."""

    def __init__(self, policy: Policy, options: Options) -> None:
        self._policy, self._most = policy, options.batch
        self._jobs: queue.Queue[_Job] = queue.Queue(options.queue)
        self._count = 0
        threading.Thread(target=self.run, daemon=True).start()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._jobs.qsize()

    def about(self) -> dict[str, Any]:
        """Tasks and shapes."""
        about = self._policy.about
        return {**about._asdict(), "images": dict(about.images)}

    def ask(self, observations: list[dict[str, Any]], seeds: list[int]) -> dict[str, Any]:
        """Actions for observations that are checked here, each by itself: a bad one spoils no other."""
        self._policy.check_batch(observations)
        job = _Job(observations, seeds, Future())
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            text = f"queue: got {self._jobs.maxsize} that wait, allowed: fewer (try again)"
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, text) from None
        try:
            return job.result.result(_LONGEST)
        except LateError:
            job.result.cancel()
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"no answer within {_LONGEST:g} s") from None

    def run(self) -> None:
        """Take what waits, up to a batch, and answer it by one call, for ever."""
        while True:
            jobs = [self._jobs.get()]
            while sum(len(job.observations) for job in jobs) < self._most:
                try:
                    jobs.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            self._answer([job for job in jobs if job.result.set_running_or_notify_cancel()])

    def _answer(self, jobs: list[_Job]) -> None:
        observations = [each for job in jobs for each in job.observations]
        if not observations:
            return
        try:
            seeds = [seed for job in jobs for seed in job.seeds or self._fresh(len(job.observations))]
            actions, seconds = self._policy.infer_batch(observations, seeds)
        except Exception as error:  # whatever it is, clients must not wait for ever
            for job in jobs:
                job.result.set_exception(error)
            return
        begin = 0
        for job in jobs:
            end = begin + len(job.observations)
            found = {"actions": actions[begin:end].tolist(), "seconds": seconds, "batch": len(observations)}
            job.result.set_result(found)
            begin = end

    def _fresh(self, count: int) -> list[int]:
        self._count += count
        return list(range(self._count - count, self._count))


def make_server(policy: Policy, host: str, port: int, options: Options) -> "PolicyServer":
    """The server, not yet running; port 0 is any free one."""
    return PolicyServer(Desk(policy, options), host, port, options.token)


class PolicyServer(ThreadingHTTPServer):
    """A thread for each connection, of which there are only so many."""

    daemon_threads = True

    def __init__(self, desk: Desk, host: str, port: int, token: str) -> None:
        self.desk, self.host, self.token = desk, host, token
        self._room = threading.BoundedSemaphore(_CONNECTIONS)
        super().__init__((host, port), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hang up where there is no room."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Make room afterwards."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    """One client's requests: who asks, what for, and the reply."""

    server: PolicyServer
    timeout = _PATIENCE
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """What is there, and how it is."""
        desk = self.server.desk
        self._reply({"/about": desk.about, "/healthz": lambda: {"status": "ok", "waiting": desk.waiting}})

    def do_POST(self) -> None:
        """Answers of the policy."""
        routes = {"/infer": _infer, "/infer_batch": _infer_batch}
        self._reply({p: lambda r=route: r(self.server.desk, self._body()) for p, route in routes.items()})

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: requests may hold what is not for logs."""

    def _reply(self, routes: Mapping[str, Callable[[], dict[str, Any]]]) -> None:
        try:
            self._check_caller()
            status, found = HTTPStatus.OK, self._run(routes)
        except Refusal as error:
            status, found = error.status, {"error": str(error)}
        except ValueError as error:
            status, found = HTTPStatus.BAD_REQUEST, {"error": " ".join(str(error).split())}
        except TimeoutError:
            status, found = HTTPStatus.REQUEST_TIMEOUT, {"error": "the request stopped half-way"}
        except Exception as error:  # a fault of ours: the client learns of it, others go on
            status, found = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": repr(error)}
        self._send(status, found)

    def _run(self, routes: Mapping[str, Callable[[], dict[str, Any]]]) -> dict[str, Any]:
        path = urlsplit(self.path).path
        if path not in routes:
            raise Refusal(HTTPStatus.NOT_FOUND, f"path: got {path!r}, allowed: {', '.join(routes)}")
        return routes[path]()

    def _send(self, status: HTTPStatus, found: dict[str, Any]) -> None:
        content = json.dumps(found).encode()
        self.close_connection = self.close_connection or status != HTTPStatus.OK  # its body may be unread
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def _check_caller(self) -> None:
        if not self.server.token:
            return self._check_names()
        sent = self.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(sent, f"Bearer {self.server.token}".encode()):
            raise Refusal(HTTPStatus.UNAUTHORIZED, "Authorization: allowed: Bearer and the token")
        return None

    def _check_names(self) -> None:
        """A page of another site must not reach this one by a name that it lets point here."""
        name = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        checks.require_one_of("Host", name, (*_LOCAL, self.server.host))
        origin = urlsplit(self.headers.get("Origin") or "http://localhost").hostname
        checks.require_one_of("Origin", origin, _LOCAL)

    def _body(self) -> dict[str, Any]:
        text = self.headers.get("Content-Length", "")
        checks.require(text.isdigit(), "Content-Length", text, "a number of bytes")
        if int(text) > _MOST_BYTES:
            allowed = f"bytes: got {text}, allowed: {_MOST_BYTES}"
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, allowed)
        try:
            found = json.loads(self.rfile.read(int(text)))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"body: got {error}, allowed: JSON") from error
        checks.require(isinstance(found, dict), "body", type(found).__name__, "a JSON object")
        return found


def _infer(desk: Desk, body: Mapping[str, Any]) -> dict[str, Any]:
    _known(body, ("request_id", "observation"), ("seed",))
    seeds = [_seed(body["seed"])] if "seed" in body else []
    found = desk.ask([_observation(body["observation"])], seeds)
    return {"request_id": body["request_id"], **found, "actions": found["actions"][0]}


def _infer_batch(desk: Desk, body: Mapping[str, Any]) -> dict[str, Any]:
    _known(body, ("request_id", "observations"), ("seeds",))
    given, seeds = body["observations"], body.get("seeds", [])
    checks.require(isinstance(given, list), "observations", type(given).__name__, "a list")
    fits = isinstance(seeds, list) and len(seeds) in (0, len(given))
    checks.require(fits, "seeds", seeds if isinstance(seeds, list) else type(seeds).__name__, "one each")
    found = desk.ask([_observation(each) for each in given], [_seed(seed) for seed in seeds])
    return {"request_id": body["request_id"], **found}


def _known(body: Mapping[str, Any], needed: tuple[str, ...], more: tuple[str, ...]) -> None:
    for name in needed:
        checks.require(name in body, "body", sorted(body), f"{name!r} among the keys")
    for name in body:
        checks.require_one_of("body", name, (*needed, *more))


def _seed(value: Any) -> int:
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32
    checks.require(fits, "seed", value, "0 .. 2^32 - 1")
    return int(value)


def _observation(given: Any) -> dict[str, Any]:
    """JSON knows no float32."""
    checks.require(isinstance(given, dict), "observation", type(given).__name__, "a JSON object")
    _known(given, ("state", "task"), ("images",))
    try:
        with np.errstate(over="ignore"):
            state = np.asarray(given["state"], np.float64).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"state: got {error}, allowed: numbers") from error
    return {"state": state, "task": given["task"], "images": _images(given.get("images", {}))}


def _images(given: Any) -> dict[str, Any]:
    """Of each camera a PNG or JPEG in base64, or a list of them where several steps are seen."""
    checks.require(isinstance(given, dict), "images", type(given).__name__, "a JSON object")
    found = {}
    for name, value in given.items():
        steps = [_image(name, step) for step in (value if isinstance(value, list) else [value])]
        shapes = sorted({step.shape for step in steps})
        checks.require(len(shapes) == 1, f"images[{name!r}]: shapes", shapes, "one, of one step or more")
        found[name] = np.stack(steps) if isinstance(value, list) else steps[0]
    return found


def _image(name: str, text: Any) -> UInt8[np.ndarray, "h w 3"]:
    label = f"images[{name!r}]"
    checks.require(isinstance(text, str), label, type(text).__name__, "a PNG or JPEG in base64")
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"{label}: got {error}, allowed: base64") from error
    return decode_image(content, label, channels=3)
