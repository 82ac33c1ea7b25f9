"""A policy as one program that runs where only JAX is installed, its experts chosen all weights within."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffax import checks
from diffax.io import Argument, export_function, load_function
from experiments.mode_policy import method
from experiments.mode_policy.policy import About, Policy
from experiments.progress import say

FILE = "policy.jaxexport"


def export_policy(trained: method.Trained, about: About, folder: Path, name: str = "model") -> Path:
    """Write ``FILE`` and what it is; then read it again, and compare its answers with the policy's.

    Raises ValueError where they differ by more than 1e-5 of the largest action.
    """
    run, path = flat(method.answers(trained, name), about), folder / FILE
    arguments = {
        "seeds": Argument((), "uint32", "one for each answer, which depends on its own row alone"),
        "state": Argument((about.history, about.state), "float32", "what is seen, in the data's units"),
        "task": Argument((), "int32", "a number of about.tasks"),
    }
    for camera in sorted(about.images):
        shape = (about.history, *about.images[camera])
        arguments[f"images {camera}"] = Argument(shape, "uint8", "what the camera sees")
    metadata = {**about._asdict(), "policy": name, "sampler": trained.config.sample.to_dict()}
    export_function(path, run, arguments, metadata=metadata)
    say(f"answers of the file differ by {_difference(run, path, about):.1e}")
    return path


def flat(run: Any, about: About) -> Callable[..., Any]:
    """A policy's answers as a function of arrays: seeds, state, task, then every camera's images by name."""
    cameras = sorted(about.images)

    def call(seeds: Any, state: Any, task: Any, *images: Any) -> Any:
        return run(seeds, {"state": state, "images": dict(zip(cameras, images, strict=True))}, task)

    return call


def load_exported_policy(path: str | Path) -> Policy:
    """A policy from its file; ValueError for a damaged one, or a file of something else."""
    call, record = load_function(path)
    known = record["about"]
    checks.require(set(About._fields) <= set(known), f"{path}: about", sorted(known), "those of a policy")
    images = {name: tuple(shape) for name, shape in known["images"].items()}
    fields = {name: known[name] for name in About._fields}
    about = About(**{**fields, "tasks": tuple(known["tasks"]), "images": images})

    def run(seeds: Any, seen: Any, task: Any) -> Any:
        return call(seeds, seen["state"], task, *[seen["images"][name] for name in sorted(images)])

    return Policy(run, about)


def _difference(run: Any, path: Path, about: About, n: int = 3) -> float:
    random = np.random.default_rng(0)
    seen = random.standard_normal((n, about.history, about.state)).astype(np.float32)
    shapes = [(n, about.history, *about.images[camera]) for camera in sorted(about.images)]
    images = [random.integers(0, 256, shape, np.uint8) for shape in shapes]
    given = np.arange(n, dtype=np.uint32), seen, (np.arange(n) % len(about.tasks)).astype(np.int32), *images
    ours, theirs = np.asarray(run(*given)), np.asarray(load_function(path).call(*given))
    difference = float(np.abs(ours - theirs).max() / np.abs(ours).max())
    checks.require(difference <= 1e-5, f"{path}: difference", difference, "at most 1e-5 of the actions")
    return difference
