"""A page with three sliders, for this machine alone: the radiograph, and beside it what another angle shows.

Everything that the page needs is in it; nothing is asked of any network.
"""

import io
import json
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import numpy as np
from jaxtyping import UInt8

from diffax import checks
from diffax.data import read_radiograph
from experiments.progress import say
from experiments.radrotator.angles import Angles
from experiments.radrotator.radiographs import Given, frame_of, given_of, heat
from experiments.radrotator.turning import Turner

_PAGE = Path(__file__).with_name("page.html")
_MOST_BYTES = 2**28  # of a radiograph that is sent
_SIZE = 384  # pixels of the longer side of pictures
_SEEDS = 4  # of a map of uncertainty


class Reply(NamedTuple):
    """What is sent back."""

    kind: str
    content: bytes
    status: HTTPStatus = HTTPStatus.OK


class Desk:
    """The network, and the radiograph that is looked at; one request at a time."""

    def __init__(self, turner: Turner, given: Given | None) -> None:
        self._turner, self._given, self._lock = turner, given, threading.Lock()
        self._routes: Mapping[str, Callable[[Mapping[str, str]], Reply]] = {
            "/": lambda _: Reply("text/html; charset=utf-8", _PAGE.read_bytes()),
            "/about.json": self._about,
            "/original.png": self._original,
            "/view.png": self._view,
            "/uncertainty.png": self._uncertainty,
        }

    def answer(self, target: str) -> Reply:
        """The reply to a GET; ``ValueError`` for what cannot be asked."""
        parts = urlsplit(target)
        if parts.path not in self._routes:
            return Reply("text/plain", b"no such page", HTTPStatus.NOT_FOUND)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        with self._lock:
            return self._routes[parts.path](query)

    def take(self, name: str, content: bytes) -> Reply:
        """Another radiograph, from the bytes of a file."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"radiograph{Path(name).suffix.lower()}"
            file.write_bytes(content)
            try:
                given = given_of(read_radiograph(file), _SIZE)
            except ValueError as error:
                raise ValueError(str(error).replace(str(file), name)) from None
        with self._lock:
            self._given = given
            return self._about({})

    def warm_up(self) -> None:
        """Compile now, and not at the first slider."""
        blank = np.zeros((self._turner.size,) * 2, np.float32)
        self._turner.views(blank, np.zeros((1, 3)))

    def _about(self, _: Mapping[str, str]) -> Reply:
        facts = {
            "limit": self._turner.limit,
            "pixels": self._turner.size,
            "objective": str(self._turner.config.objective),
            "given": self._given is not None,
        }
        return Reply("application/json", json.dumps(facts).encode())

    def _original(self, _: Mapping[str, str]) -> Reply:
        return _png(self._radiograph().shown())

    def _view(self, query: Mapping[str, str]) -> Reply:
        given, at = self._radiograph(), _angles(query)
        view = self._turner.views(given.square(self._turner.size), np.array([at]), _seed(query))[0]
        return _png(frame_of(given, view, at, self._turner.limit))

    def _uncertainty(self, query: Mapping[str, str]) -> Reply:
        given, at = self._radiograph(), _angles(query)
        square = given.square(self._turner.size)
        draws = [self._turner.views(square, np.array([at]), _seed(query) + k)[0] for k in range(_SEEDS)]
        return _png(heat(given, np.std(draws, axis=0)))

    def _radiograph(self) -> Given:
        checks.require(self._given is not None, "radiograph", None, "a file, opened first")
        assert self._given is not None
        return self._given


def make_server(turner: Turner, given: Given | None, port: int) -> ThreadingHTTPServer:
    """The server on 127.0.0.1, not yet running; port 0 is any free one."""
    desk = Desk(turner, given)
    desk.warm_up()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(lambda: desk.answer(self.path))

        def do_POST(self) -> None:
            def take() -> Reply:
                length = int(self.headers.get("Content-Length") or 0)
                checks.require(0 < length <= _MOST_BYTES, "bytes", length, f"1 .. {_MOST_BYTES}")
                query = parse_qs(urlsplit(self.path).query)
                return desk.take(Path(query.get("name", ["file"])[0]).name, self.rfile.read(length))

            self._reply(take)

        def _reply(self, make: Callable[[], Reply]) -> None:
            try:
                # a page of another site must not reach this one by a name that it lets point here
                host = self.headers.get("Host", "").rsplit(":", 1)[0]
                checks.require_one_of("Host", host, ("127.0.0.1", "localhost"))
                origin = urlsplit(self.headers.get("Origin") or "http://localhost").hostname
                checks.require_one_of("Origin", origin, ("127.0.0.1", "localhost"))
                reply = make()
            except ValueError as error:
                text = " ".join(str(error).split())
                reply = Reply("text/plain; charset=utf-8", text.encode(), HTTPStatus.BAD_REQUEST)
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.kind)
            self.send_header("Content-Length", str(len(reply.content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(reply.content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: file names may be patients'."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def serve(turner: Turner, given: Given | None, port: int) -> None:
    """Serve until the program is interrupted."""
    with make_server(turner, given, port) as server:
        say(f"http://127.0.0.1:{server.server_address[1]}/  (Ctrl-C ends it)", sys.stdout)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("ended")


def _angles(query: Mapping[str, str]) -> Angles:
    return Angles(*(_number(query, name) for name in Angles._fields))


def _seed(query: Mapping[str, str]) -> int:
    value = _number(query, "seed")
    checks.require(0 <= value < 2**31, "seed", value, "0 .. 2^31 - 1")
    return int(value)


def _number(query: Mapping[str, str], name: str) -> float:
    text = query.get(name, "0")
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    checks.require(bool(np.isfinite(value)), name, text, "a finite number")
    return value


def _png(frame: UInt8[np.ndarray, "h w *c"]) -> Reply:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, format="PNG")
    return Reply("image/png", stream.getvalue())
