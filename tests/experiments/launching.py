"""How the tests of the programs start them."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
DDPM = "configs/medical_survey/ddpm_digits.py:smoke"
ENVIRONMENT = {
    **os.environ,
    # one device, as a user has it, compiled as quickly as the tests
    "XLA_FLAGS": " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag),
    "JAX_COMPILATION_CACHE_DIR": os.environ.get(
        "DIFFAX_TEST_CACHE", str(Path(tempfile.gettempdir()) / "diffax-jax-cache")
    ),
}


def command(workdir, *flags, config=DDPM, mode="train"):
    """The launcher's command line."""
    base = [sys.executable, "-m", "experiments.main", f"--config={config}", f"--workdir={workdir}"]
    return [*base, f"--mode={mode}", *flags]


def start(workdir, *flags, prefix=(), config=DDPM):
    """The launcher in the background, behind another program's arguments; its standard error can be read."""
    words = [*prefix, *command(workdir, *flags, config=config)]
    return subprocess.Popen(
        words, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def launch(*args, **kwargs):
    """Run the launcher to its end."""
    return subprocess.run(
        command(*args, **kwargs), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )


def launch_module(module, **flags):
    """Run another program of an experiment to its end."""
    words = [sys.executable, "-m", module, *(f"--{name}={value}" for name, value in flags.items())]
    return subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def digests(workdir):
    """Digest of every array of each whole checkpoint, by step."""
    found = {}
    for path in (workdir / "checkpoints").glob("*/meta/metadata"):
        if path.parts[-3].isdigit():  # not one that is still being written
            found[int(path.parts[-3])] = json.loads(path.read_text())["digest"]
    return found
