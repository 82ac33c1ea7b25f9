"""The launcher of every experiment.

    python -m experiments.main --config=configs/medical_survey/ddpm_digits.py:demo --workdir=DIR \
        --mode=train|eval|sample|export

The same command again resumes; SIGTERM saves and ends with status 0. Single values are changed by
``--config.train.num_steps=500`` and the like, the mesh by ``--mesh=4x2x1`` (data x fsdp x tensor). On several
hosts the same command runs on each, with ``--multihost`` and, off a cluster that JAX knows,
``--coordinator=HOST:PORT --process_count=N --process_id=I``. Bad input ends with one line and exit status 2,
and changes nothing.
"""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import config_flags

_CACHE = flags.DEFINE_string(
    "compilation_cache",
    os.environ.get("JAX_COMPILATION_CACHE_DIR", ""),
    "folder for compiled programs, shared by runs; empty for none",
)
_MULTIHOST = flags.DEFINE_bool("multihost", False, "one of several processes that make one run")
_COORDINATOR = flags.DEFINE_string("coordinator", "", "host:port of process 0 (or DIFFAX_COORDINATOR)")
_PROCESS_COUNT = flags.DEFINE_integer("process_count", 0, "of the run (or DIFFAX_PROCESS_COUNT)", 0)
_PROCESS_ID = flags.DEFINE_integer("process_id", -1, "of this process, from 0 (or DIFFAX_PROCESS_ID)", -1)


def main(argv: Sequence[str]) -> None:
    """Run one mode of one experiment."""
    from experiments import modes  # after the flags: a typing error should not wait for JAX

    values = flags.FLAGS
    for name in ("config", "workdir"):
        if values[name].value is None:
            raise ValueError(f"--{name}: got None, allowed: a path")
    start_jax()
    known = {"train": modes.train, "eval": modes.evaluate, "sample": modes.draw, "export": modes.export}
    mode = known[values["mode"].value]
    options = modes.Options(values["profile"].value, values["checkpoint"].value)
    config = values["config"].value
    if values["mesh"].value:
        config.mesh = values["mesh"].value
    mode(config, values["workdir"].value, options)


def start_jax() -> None:
    """Join the other hosts and set the compilation cache, as the flags say."""
    from diffax.training import distributed
    from experiments import devices

    devices.set_compilation_cache(str(_CACHE.value))
    if _MULTIHOST.value:
        distributed.initialize(_COORDINATOR.value, _PROCESS_COUNT.value, _PROCESS_ID.value)


def run(program: Callable[[Sequence[str]], None]) -> int:
    """Parse the flags, run, and turn errors from bad input into one line and exit status 2.

    With ``DIFFAX_TRACEBACK=1`` in the environment every error keeps its traceback.
    """
    if {"--help", "-help", "-h"} & set(sys.argv[1:]):
        print(description())
        return 0
    status = 0
    try:
        program(parse(sys.argv))
    except Exception as error:
        status = _status(error) or 1
        if _status(error) is None or os.environ.get("DIFFAX_TRACEBACK"):
            traceback.print_exc()
        else:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    if status and flags.FLAGS.is_parsed() and _MULTIHOST.value:
        # the usual way out waits minutes for the other hosts; they learn of this one's end at once
        sys.stderr.flush()
        os._exit(status)
    return status


def description() -> str:
    """What the program that runs says of itself, and of the flags that it defines."""
    text = (sys.modules["__main__"].__doc__ or "").strip()
    parts = [flags.FLAGS.module_help(name).strip() for name in dict.fromkeys(["__main__", __name__])]
    return "\n\n".join([text, *parts])


def parse(argv: Sequence[str]) -> list[str]:
    """Set the flags. A mistake in them, or an error in a configuration file, is a ``ValueError``."""
    try:
        rest = flags.FLAGS(list(argv))
    except Exception as error:  # flags and configuration files raise many kinds
        raise ValueError(
            error.args[0] if isinstance(error, KeyError) and error.args else str(error)
        ) from error
    if rest[1:]:
        raise ValueError(f"arguments: got {rest[1:]}, allowed: flags only")
    return rest


def _status(error: Exception) -> int | None:
    """2 for bad input, 1 for a run that had to stop, None for a fault of the program itself."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return 1
    if isinstance(error, (ValueError, OSError)):
        return 2
    names = {"CheckpointError": 2, "CheckpointWriteError": 1, "NonFiniteLossError": 1}
    return names.get(type(error).__name__)


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "configuration file, as path.py:variant")
    flags.DEFINE_string("workdir", None, "folder of the run: checkpoints, metrics, pictures, results")
    flags.DEFINE_enum("mode", "train", ["train", "eval", "sample", "export"], "what to do")
    flags.DEFINE_string("mesh", "", "devices as DATAxFSDPxTENSOR, one of them -1; instead of config.mesh")
    flags.DEFINE_bool("profile", False, "write a trace of a few training steps into the workdir")
    flags.DEFINE_string("checkpoint", "newest", "what eval and sample look at: newest, best, or a step")
    sys.exit(run(main))
