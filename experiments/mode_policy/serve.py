"""A policy over HTTP: observations in, chunks of actions out, many clients on one network.

    python -m experiments.mode_policy.serve --workdir=runs/mt10            # or --artefact=policy.jaxexport
    curl -d '{"request_id": "1", "observation": {"state": [...], "task": "reach"}}' localhost:8571/infer

* ``POST /infer``: ``{"request_id", "observation": {"state", "task"}, "seed"?}`` gives ``{"request_id",
  "actions", "seconds", "batch"}``. The number of a request comes back with its answer, so that a late answer
  is never taken for that of the next. ``seed`` makes it repeatable. A policy with cameras needs "images" in
  the observation: of each camera a PNG or JPEG in base64, a list of them where several steps are seen.
* ``POST /infer_batch``: ``"observations"`` and ``"seeds"`` in place of these; answers of one call.
* ``GET /about``: tasks and shapes. ``GET /healthz``: whether it answers, and how many wait.

Requests that wait are answered together. A full queue is status 503 at once, bad input 400 with the field,
a body too long 413, a missing token 401. It listens on this machine alone; elsewhere only with
``--token_file``, whose text clients send as ``Authorization: Bearer ...``. Put TLS in front of it there.
"""

import ipaddress
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from diffax import checks
from experiments import main
from experiments.mode_policy.exporting import load_exported_policy
from experiments.mode_policy.loading import load_policy
from experiments.mode_policy.policy import Policy
from experiments.mode_policy.server import Options, make_server
from experiments.progress import say


def program(argv: Sequence[str]) -> None:
    """Serve until interrupted."""
    values = flags.FLAGS
    host, port = values["host"].value, values["port"].value
    token = read_token(values["token_file"].value, host)
    checks.require(0 <= port < 65536, "--port", port, "0 .. 65535")
    for name in ("queue", "batch"):
        checks.require(values[name].value >= 1, f"--{name}", values[name].value, "an integer >= 1")
    main.start_jax()
    policy = open_policy(values["workdir"].value, values["artefact"].value, values["policy"].value)
    options = Options(token, values["queue"].value, values["batch"].value)
    with make_server(policy, host, port, options) as server:
        say(f"http://{host}:{server.server_address[1]}/infer  (Ctrl-C ends it)", sys.stdout)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("ended")


def open_policy(workdir: str, artefact: str, name: str) -> Policy:
    """Of a run's folder, or of an exported file."""
    both = bool(workdir) != bool(artefact)
    checks.require(both, "--workdir and --artefact", (workdir, artefact), "one of them")
    return load_exported_policy(artefact) if artefact else load_policy(workdir, name)


def read_token(file: str, host: str) -> str:
    """The text of a file, which addresses beyond this machine need."""
    local = host == "localhost" or _is_loopback(host)
    checks.require(local or bool(file), "--host", host, "127.0.0.1, or another with --token_file")
    if not file:
        return ""
    token = Path(file).read_text(encoding="utf-8").strip()
    checks.require(len(token) >= 16, "--token_file: characters", len(token), "16 or more")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "", "folder of a trained run")
    flags.DEFINE_string("artefact", "", "an exported policy, in place of a run")
    flags.DEFINE_string("policy", "model", "model, or a baseline of the run")
    flags.DEFINE_string("host", "127.0.0.1", "address to listen on")
    flags.DEFINE_integer("port", 8571, "0 for any that is free")
    flags.DEFINE_string("token_file", "", "file with the secret that clients send")
    flags.DEFINE_integer("queue", 64, "requests that may wait")
    flags.DEFINE_integer("batch", 32, "observations that are answered together")
    sys.exit(main.run(program))
