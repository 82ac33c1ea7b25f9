"""Samples by the ten thousand: batches of one size over a mesh, in files that a broken run completes.

Sample i is drawn from ``fold_in(key, i)``: it does not depend on the batch, the number of devices, how many
samples are asked for, or whether the run was broken.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key, Shaped

from diffax import checks
from diffax.io.files import write_atomically
from diffax.io.images import save_png
from diffax.training import distributed
from diffax.training.sharding import batch_devices, batch_sharding, mesh_of, place, replicated
from diffax.types import Keys, Params

Generate = Callable[[Params, Keys, Any], Any]  # (params, keys, conditions) -> a tree of batched arrays
Progress = Callable[[int, int], None]  # (samples done, samples in all)


def keys_of(key: Key[Array, ""], start: int, count: int, params: Params) -> Keys:
    """The keys of samples ``start .. start + count - 1``, split over the mesh on which ``params`` lie."""
    index = np.arange(start, start + count, dtype=np.uint32)
    mesh = mesh_of(params)
    raw = place(np.asarray(jax.random.key_data(key)), replicated(mesh))
    fold = _fold(str(jax.random.key_impl(key)))
    return fold(raw, place(index, batch_sharding(mesh)))


def whole_batch(batch_size: int, params: Params) -> int:
    """``batch_size``, rounded up to what the devices divide."""
    checks.require(batch_size >= 1, "batch_size", batch_size, "an integer >= 1")
    devices = batch_devices(mesh_of(params))
    return -(-batch_size // devices) * devices


def arguments(
    params: Params, key: Key[Array, ""], conditions: Any, start: int, batch_size: int
) -> tuple[Params, Keys, Any]:
    """What ``generate`` is called with for one batch; rows beyond the last sample repeat the first ones."""
    batch = whole_batch(batch_size, params)
    where = batch_sharding(mesh_of(params))

    def rows(leaf: Shaped[np.ndarray, "n ..."]) -> Array:
        return place(np.asarray(leaf)[np.arange(start, start + batch) % len(leaf)], where)

    return params, keys_of(key, start, batch, params), jax.tree.map(rows, conditions)


def in_batches(
    generate: Generate,
    params: Params,
    key: Key[Array, ""],
    conditions: Any,
    batch_size: int,
    *,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Any]:
    """Call ``generate`` for samples ``start .. stop - 1``, and yield its outputs as numpy arrays.

    ``conditions`` is a tree of arrays with a row for each of the n samples, or n itself where there are none
    (``generate`` then gets their indices instead); ``stop`` is n by default. All batches have one
    size (one compilation), rounded up to what the devices divide; the last is cut.
    """
    conditions = np.arange(conditions) if isinstance(conditions, int) else conditions
    n = len(jax.tree.leaves(conditions)[0])
    stop = n if stop is None else stop
    checks.require(0 <= start <= stop <= n, "start, stop", (start, stop), f"a range inside 0 .. {n}")
    batch = whole_batch(batch_size, params)
    for first in range(start, stop, batch):
        out = distributed.gather(generate(*arguments(params, key, conditions, first, batch)))
        yield jax.tree.map(partial(_cut, rows=min(batch, stop - first)), out)


def write_samples(
    generate: Generate,
    params: Params,
    key: Key[Array, ""],
    labels: Shaped[np.ndarray, "n"],
    folder: str | Path,
    name: str,
    *,
    batch_size: int,
    per_file: int = 10_000,
    identity: Mapping[str, Any] | None = None,
    png: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Samples for all labels as ``.npz`` files with ``image`` (float32) and ``label``; returns their paths.

    One file ``NAME.npz`` holds up to ``per_file`` samples; more are spread over ``NAME-00000-of-00004.npz``
    and so on. A file that is already there under the same ``identity`` (what the samples depend on: network,
    solver, seed) is left as it is, so that the same call completes a broken one. ``png`` also writes each
    image as ``NAME/000000.png``. On several hosts the first one writes. ``generate`` returns images
    Float["b h w c"] in [-1, 1].
    """
    size = -(-per_file // batch_size) * batch_size
    n, parts = len(labels), max(1, -(-len(labels) // size))
    own = json.dumps({**(identity or {}), "n": n, "key": np.asarray(jax.random.key_data(key)).tolist()})
    paths = [Path(folder) / _file_name(name, part, parts) for part in range(parts)]
    done = distributed.from_main([_identity_of(path) == own for path in paths])
    for part, path in enumerate(paths):
        start, stop = part * size, min(n, (part + 1) * size)
        if not done[part]:
            images = _collect(generate, params, key, labels, batch_size, start, stop, n, progress)
            if distributed.is_main():
                _write_pictures(Path(folder) / name, images if png else (), start, replace=True)
                write_npz(path, image=images, label=labels[start:stop], identity=np.asarray(own))
        elif png and distributed.is_main():
            _write_pictures(Path(folder) / name, np.load(path)["image"], start, replace=False)
        if progress is not None:
            progress(stop, n)
    distributed.barrier(f"{name}: written")
    return paths


def _collect(
    generate: Generate,
    params: Params,
    key: Key[Array, ""],
    labels: Shaped[np.ndarray, "n"],
    batch_size: int,
    start: int,
    stop: int,
    n: int,
    progress: Progress | None,
) -> np.ndarray:
    images: list[np.ndarray] = []
    for batch in in_batches(generate, params, key, labels, batch_size, start=start, stop=stop):
        images.append(np.asarray(batch))
        if progress is not None:
            progress(start + sum(map(len, images)), n)
    return np.concatenate(images)


def write_npz(path: Path, **arrays: Shaped[np.ndarray, "..."]) -> None:
    """Write a compressed ``.npz`` file atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

    write_atomically(path, write)


def _write_pictures(folder: Path, images: Iterable[np.ndarray], start: int, replace: bool) -> None:
    """Each image as a PNG under the number of its sample; without ``replace`` only those that are missing."""
    for index, image in enumerate(images, start):
        path = folder / f"{index:06d}.png"
        if replace or not path.exists():
            save_png(path, image)


def _identity_of(path: Path) -> str | None:
    """What the samples of a file depend on; None for no file, or one of another making."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return str(file["identity"])
    except (OSError, ValueError, KeyError):
        return None


def _file_name(name: str, part: int, parts: int) -> str:
    return f"{name}.npz" if parts == 1 else f"{name}-{part:05d}-of-{parts:05d}.npz"


def _cut(leaf: np.ndarray, rows: int) -> np.ndarray:
    return leaf[:rows] if np.ndim(leaf) else leaf


@partial(jax.jit, static_argnums=0)
def _folded(impl: str, raw: Array, index: Array) -> Keys:
    key = jax.random.wrap_key_data(raw, impl=impl)
    return jax.vmap(partial(jax.random.fold_in, key))(index)


def _fold(impl: str) -> Callable[[Array, Array], Keys]:
    return partial(_folded, impl)
