"""A trained sampler as one file that runs where only JAX is installed.

    fn = sampling_function(denoise, process, heun(), grids.karras(process, 18), (32, 32, 3), labels=True)
    export_sampler("cifar10.jaxexport", fn, metadata={"value_range": [-1, 1], "sampler": "heun", ...})

and elsewhere, without this library:

    import jax, numpy as np
    call = jax.export.deserialize(bytearray(open("cifar10.jaxexport", "rb").read())).call
    images = call(np.arange(4, dtype=np.uint32), np.full(4, 7, np.int32), np.float32(2.0))

The file holds StableHLO with the parameters as constants, which JAX promises to read for six months at least:
https://docs.jax.dev/en/latest/export/export.html. JAX needs ``pip install flatbuffers`` to write or read it.
Beside it lies ``NAME.json``, which says what it is.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, ArrayLike, Float, Int, UInt32

from diffax.checks import require
from diffax.data.optional import optional_import
from diffax.guidance import classifier_free
from diffax.io.files import write_bytes, write_json
from diffax.processes import GaussianProcess
from diffax.samplers import Sampler, sample
from diffax.types import DenoiseFn, Keys, Values

# images Float["b ..."] of (seeds UInt32["b"], labels Int32["b"], guidance Float32[""])
SamplingFn = Callable[[Array, Array, Array], Array]
_FORMAT = 1


class Argument(NamedTuple):
    """Of an exported function: ``shape`` of one sample's share, where ``batched``; what it is."""

    shape: tuple[int, ...]
    dtype: str
    about: str
    batched: bool = True

    def sized(self, batch: Any) -> jax.ShapeDtypeStruct:
        """With its leading axis."""
        return jax.ShapeDtypeStruct((batch, *self.shape) if self.batched else self.shape, self.dtype)

    def __str__(self) -> str:
        sizes = ",".join(["b"] * self.batched + [str(size) for size in self.shape])
        return f"{self.dtype}[{sizes}], {self.about}"


_ARGUMENTS = {
    "seeds": Argument((), "uint32", "one for each image, which depends on its own alone"),
    "labels": Argument((), "int32", "a class; negative for none"),
    "guidance": Argument((), "float32", "the scale of classifier-free guidance; 1 for none", batched=False),
}


class Exported(NamedTuple):
    """``call(*arguments)``, and what the file says of itself."""

    call: Callable[..., Array]
    metadata: dict[str, Any]


class ExportedSampler(NamedTuple):
    """``generate(seeds, labels=None, guidance=1.0) -> images`` and what the file says of itself."""

    generate: Callable[..., Array]
    metadata: dict[str, Any]


def seed_keys(seeds: UInt32[Array, "b"]) -> Keys:
    """``jax.random.key`` of each seed: one key per sample."""
    return jax.vmap(jax.random.key)(seeds)


def sampling_function(
    denoise: DenoiseFn,
    process: GaussianProcess,
    sampler: Sampler,
    grid: Float[Array, "points"],
    shape: Sequence[int],
    *,
    labels: bool = False,
) -> SamplingFn:
    """Sampling as a function of numbers alone: ``fn(seeds, labels, guidance) -> images``.

    With ``labels=True`` the denoiser is guided without a classifier, at a scale given when called; samples
    with a negative label are unconditional. Otherwise labels and guidance are taken and ignored, so that all
    exported files are called alike. ``shape``: of one sample. See :func:`diffax.sample`.
    """

    def generate(
        seeds: UInt32[Array, "b"], classes: Int[Array, "b"], guidance: Float[Array, ""]
    ) -> Float[Array, "b ..."]:
        cond = {"label": jnp.maximum(classes, 0), "unconditional": classes < 0} if labels else None
        guided = classifier_free(guidance)(denoise) if labels else denoise
        return sample(seed_keys(seeds), guided, process, sampler, grid, shape=shape, cond=cond).x

    return generate


def export_sampler(
    path: str | os.PathLike[str],
    fn: SamplingFn,
    *,
    batch_size: int | None = None,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write ``fn``, with all arrays that it closes over, to ``path``, and what it is to ``path`` + ".json".

    Args:
      fn: ``fn(seeds, labels, guidance)``, as from :func:`sampling_function`; it returns b samples.
      batch_size: None for a file that takes any number of seeds. For a function that cannot be traced so
        (one that needs the size as a number), this many and no other.
      platforms: where the file may run: "cpu", "cuda", "rocm", "tpu".
      metadata: what a user wants to know, kept as JSON: value range, sampler, grid, steps, labels.

    Returns what was written to the JSON file.

    Raises:
      ValueError: for an output that is not one array of b samples, a function that needs a ``batch_size``,
        or metadata that is not JSON.
    """
    return export_function(
        path, fn, _ARGUMENTS, batch_size=batch_size, platforms=platforms, metadata=metadata
    )


def export_function(
    path: str | os.PathLike[str],
    fn: Callable[..., Array],
    arguments: Mapping[str, Argument],
    *,
    batch_size: int | None = None,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write any ``fn`` of the named arguments, in their order, that returns one array of b samples.

    All else as :func:`export_sampler`; :func:`load_function` reads it.
    """
    optional_import("flatbuffers", "export")
    about = _as_json(metadata)
    exported = _trace(fn, arguments, batch_size, platforms)
    content = bytes(exported.serialize())
    (out,) = exported.out_avals
    record = {
        "format": _FORMAT,
        "arguments": {name: str(argument) for name, argument in arguments.items()},
        "batch_size": batch_size,
        "sample_shape": list(out.shape[1:]),
        "dtype": str(out.dtype),
        "platforms": list(exported.platforms),
        "jax_version": jax.__version__,
        "calling_convention_version": exported.calling_convention_version,
        "sha256": hashlib.sha256(content).hexdigest(),
        "about": about,
    }
    write_bytes(path, content)
    write_json(_sidecar(path), record)
    return record


def load_function(path: str | os.PathLike[str]) -> Exported:
    """The function of :func:`export_function`, compiled at its first call with a batch of a size.

    Raises ValueError for files that are missing or damaged, or do not belong together.
    """
    optional_import("flatbuffers", "export")
    content, record = _read(path)
    return Exported(jax.jit(export.deserialize(bytearray(content)).call), record)


def load_sampler(path: str | os.PathLike[str]) -> ExportedSampler:
    """The function of :func:`export_sampler`, compiled at its first call, and its metadata.

    Raises ValueError for files that are missing or damaged, or do not belong together.
    """
    call, record = load_function(path)
    size = record["batch_size"]

    def generate(
        seeds: Values, labels: Values | None = None, guidance: ArrayLike = 1.0
    ) -> Float[Array, "b ..."]:
        seeds = jnp.asarray(seeds, jnp.uint32)
        allowed = "a vector" if size is None else f"a vector of {size}"
        require(seeds.ndim == 1 and size in (None, seeds.shape[0]), "seeds.shape", seeds.shape, allowed)
        classes = jnp.full(seeds.shape, -1) if labels is None else jnp.asarray(labels)
        require(classes.shape == seeds.shape, "labels.shape", classes.shape, f"{seeds.shape}, as seeds")
        return call(seeds, classes.astype(jnp.int32), jnp.asarray(guidance, jnp.float32))

    return ExportedSampler(generate, record)


def _trace(
    fn: Callable[..., Array],
    arguments: Mapping[str, Argument],
    batch_size: int | None,
    platforms: Sequence[str],
) -> export.Exported:
    """Trace and lower for all platforms, and check the output."""
    require(batch_size is None or batch_size > 0, "batch_size", batch_size, "None or a positive number")
    (batch,) = export.symbolic_shape("b") if batch_size is None else (batch_size,)
    sized = [argument.sized(batch) for argument in arguments.values()]
    try:
        exported = export.export(jax.jit(fn), platforms=tuple(platforms))(*sized)
    except jax.core.InconclusiveDimensionOperation as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"batch_size: got None, allowed here: a number, for {reason}") from error
    shapes = [f"{out.dtype}{list(out.shape)}" for out in exported.out_avals]
    fits = len(shapes) == 1 and exported.out_avals[0].shape[:1] == (batch,)
    require(fits, "output of fn", shapes, "one array with a leading axis of b samples")
    return exported


def _as_json(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(metadata or {})))
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata: got {error}, allowed: values of JSON") from error


def _sidecar(path: str | os.PathLike[str]) -> Path:
    return Path(f"{os.fspath(path)}.json")


def _read(path: str | os.PathLike[str]) -> tuple[bytes, dict[str, Any]]:
    """The bytes and the metadata of a whole file."""
    found = Path(path).is_file() and _sidecar(path).is_file()
    require(found, "path", os.fspath(path), f"a file of export_sampler, with {_sidecar(path).name} beside it")
    content = Path(path).read_bytes()
    try:
        record = json.loads(_sidecar(path).read_text(encoding="utf-8"))
        digest, known = record["sha256"], record["format"] == _FORMAT
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{_sidecar(path).name}: got {error!r}, allowed: JSON of export_sampler") from error
    require(known, "format", record["format"], str(_FORMAT))
    actual = hashlib.sha256(content).hexdigest()
    require(actual == digest, "sha256", actual[:12], f"{digest[:12]}, as {_sidecar(path).name} has it")
    return content, record
