"""Long reconstructions: compiled stretches of steps, saved on the way, with the time that remains.

What is saved (``.OUT.partial.npz`` beside the result) is the sampler's whole state and the fingerprint of
the work; the same command goes on from it, and ends as if it had never stopped.
"""

import hashlib
import json
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from diffax import inverse
from diffax.inverse import LinearProblem
from diffax.inverse.chunks import in_chunks
from diffax.io.samples import write_npz
from diffax.samplers import SamplerState, advance, begin
from diffax.types import DenoiseFn, Params
from experiments.diffusion_mbir.method import Recipe, for_networks, make_recipe
from experiments.progress import say

SAVE_SECONDS = 30.0
_TRACED = ("weight", "rho")  # settings with which no other program is needed
Numbers = dict[str, Any]


class Work(NamedTuple):
    """A posterior to be sampled: the method with its settings, and how the slices go through the network.

    ``denoise(params, process)`` binds the prior; ``stretch`` is the number of steps between two looks
    at the clock.
    """

    method: str
    settings: Any  # a mapping
    denoise: Callable[[Params, Any], DenoiseFn]
    seed: int = 0
    chunk: int = 64
    stretch: int = 5
    mesh: Mesh | None = None


def run(
    work: Work,
    problem: LinearProblem,
    params: Params,
    *,
    partial: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Float[np.ndarray, "rows columns slices"], int]:
    """Images in [0, 1] (not clipped), and the network calls that each slice took.

    With ``partial`` the state is saved there about twice a minute, and work that it belongs to goes on.
    """
    problem = jax.jit(for_networks)(problem)
    numbers = {name: float(work.settings[name]) for name in _TRACED if name in work.settings}
    fixed = tuple(sorted(item for item in work.settings.items() if item[0] not in numbers))
    start, more, finish = compiled(work._replace(settings=fixed, seed=0), problem.operator.in_shape)
    key = jax.random.key(work.seed)
    state = jax.block_until_ready(start(problem, numbers, key))
    total, saved = int(work.settings["steps"]), time.monotonic()
    mark = fingerprint(work, problem, params) if partial else ""
    state = restore(partial, mark, state) if partial else state
    done = int(state.index)
    while done < total:
        state = more(problem, numbers, params, key, state, min(work.stretch, total - done))
        done = int(state.index)
        if progress is not None:
            progress(done, total)
        if partial is not None and done < total and time.monotonic() - saved > SAVE_SECONDS:
            save(partial, mark, state)
            saved = time.monotonic()
    images, calls = finish(problem, numbers, state)
    return np.asarray(images), int(calls)


@lru_cache(maxsize=16)
def compiled(work: Work, in_shape: tuple[int, int, int]) -> tuple[Any, Any, Any]:
    """``start(problem, numbers, key)``, ``more(.., params, key, state, n_steps)``, ``finish(.., state)``.

    The batch is filled up to a multiple of the devices, with slices that the problem does not see. Volumes
    of one shape share the programs (``work.settings`` is a tuple of pairs here, so that they can be found);
    ``numbers`` are the settings that may differ between them.
    """
    mesh, slices = work.mesh, in_shape[2]
    batch = slices + (-slices % (mesh.size if mesh else 1))
    shape = (*in_shape[:2], 1)
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names)) if mesh else None

    def recipe_of(problem: LinearProblem, numbers: Numbers) -> Recipe:
        return make_recipe(work.method, problem, {**dict(work.settings), **numbers})

    def keys_of(key: Array) -> Array:
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(batch))

    def spread(state: SamplerState) -> SamplerState:
        return state if rows is None else state._replace(x=jax.lax.with_sharding_constraint(state.x, rows))

    @jax.jit
    def start(problem: LinearProblem, numbers: Numbers, key: Array) -> SamplerState:
        recipe = recipe_of(problem, numbers)
        given: dict[str, Any] = {"shape": shape}
        if recipe.x_init is not None:
            like = jnp.zeros((batch, *shape))
            given = {"x_init": inverse.to_batch(recipe.x_init, like)}
        return spread(begin(keys_of(key), recipe.process, recipe.sampler, recipe.grid, **given))

    def more(
        problem: LinearProblem,
        numbers: Numbers,
        params: Params,
        key: Array,
        state: SamplerState,
        n_steps: int,
    ) -> SamplerState:
        recipe = recipe_of(problem, numbers)
        prior = in_chunks(work.chunk, mesh)(work.denoise(params, recipe.process))
        after = advance(
            keys_of(key), recipe.transform(prior), recipe.process, recipe.sampler, recipe.grid, state, n_steps
        )
        return spread(after)

    @jax.jit
    def finish(problem: LinearProblem, numbers: Numbers, state: SamplerState) -> tuple[Array, Array]:
        recipe = recipe_of(problem, numbers)
        images = inverse.to_images(problem, state.x)
        if work.method == "mbir" and not jnp.iscomplexobj(problem.y):
            images = inverse.sart_step(problem, images)
        return (images + 1) / 2, recipe.sampler.nfe(recipe.process, recipe.grid, state.carry)

    return start, jax.jit(more, static_argnums=5), finish


def fingerprint(work: Work, problem: LinearProblem, params: Params) -> str:
    """What a saved state belongs to: the measurements, the method, the prior, the seed."""
    about = [work.method, dict(work.settings), work.seed, problem.operator.in_shape]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for leaf in jax.tree.leaves((problem, params)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def save(path: Path, mark: str, state: SamplerState) -> None:
    """Write the state, whole or not at all."""
    leaves = {f"leaf{i:03d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    write_npz(path, mark=np.asarray(mark), **leaves)


def restore(path: Path, mark: str, start: SamplerState) -> SamplerState:
    """The saved state where it belongs to this work, else ``start``."""
    if not path.exists():
        return start
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["mark"]) != mark:
                say(f"{path} belongs to other work; starting anew")
                return start
            saved = [file[f"leaf{i:03d}"] for i in range(len(jax.tree.leaves(start)))]
    except Exception as error:  # a damaged file costs time, not the result
        say(f"{path} cannot be read ({error}); starting anew")
        return start
    placed = [jax.device_put(value, leaf.sharding) for value, leaf in zip(saved, jax.tree.leaves(start))]
    state: SamplerState = jax.tree.unflatten(jax.tree.structure(start), placed)
    say(f"going on from step {int(state.index)}, as saved in {path}")
    return state
