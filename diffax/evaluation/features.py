"""Feature extractors: functions from images to vectors, with a name and a digest of their weights.

A distance between features means something only beside the extractor that made them, so each one knows
the SHA-256 of its weights; figures carry it.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffax.checks import require

Weights = Mapping[str, np.ndarray]
Images = Float[np.ndarray | Array, "n h w c"]


class FeatureExtractor(NamedTuple):
    """``fn`` maps images (b, h, w, c) in [-1, 1] to features (b, dim); ``digest`` is of its weights."""

    name: str
    fn: Callable[[Array], Array]
    dim: int
    digest: str

    @property
    def label(self) -> dict[str, str]:
        """What a figure says of its extractor: name and digest."""
        return {"name": self.name, "digest": self.digest}


def digest_of(weights: Weights) -> str:
    """SHA-256, in hex, over the names, shapes, dtypes and little-endian bytes of all arrays, by name."""
    total = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        array = array.astype(array.dtype.newbyteorder("<"))
        total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def map_batches(
    fn: Callable[[Array], Array], images: Images, batch_size: int = 256
) -> Iterator[Float[np.ndarray, "b ..."]]:
    """``fn`` of one batch of images after the other; the last one is padded, so that fn compiles once.

    Raises ``ValueError`` for no images, or values outside [-1, 1] (up to 1e-3; clip samples first: how far
    they stray is the sampler's matter, not the metric's).
    """
    require(batch_size >= 1, "batch_size", batch_size, "at least 1")
    require(len(images) > 0, "images: shape", images.shape, "(n, h, w, c) with n >= 1")
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size], np.float32)
        extreme = float(np.abs(batch).max())  # nan if there is one
        require(extreme <= 1 + 1e-3, f"images[{start}:{start + len(batch)}]", extreme, "finite, in [-1, 1]")
        short = min(batch_size, len(images)) - len(batch)
        padded = np.pad(batch, [(0, short)] + [(0, 0)] * 3)
        yield np.asarray(fn(jnp.asarray(padded)))[: len(batch)]


def extract(extractor: FeatureExtractor, images: Images, batch_size: int = 256) -> Float[np.ndarray, "n d"]:
    """The features of all images, (n, dim), computed ``batch_size`` at a time; errors as ``map_batches``.

    For more features than fit into memory: ``stream_stats(map_batches(extractor.fn, images))``.
    """
    features = np.concatenate(list(map_batches(extractor.fn, images, batch_size)))
    expected = (len(images), extractor.dim)
    require(features.shape == expected, f"features of {extractor.name}: shape", features.shape, str(expected))
    return features


def random_features(channels: int, seed: int = 0) -> FeatureExtractor:
    """An untrained network of three convolutions, 96 features: works for any image, needs no weights file.

    3x3 kernels, strides 1, 2, 2, widths 16, 32, 48, leaky ReLU; features are mean and standard deviation
    over positions of the last layer. Weights are uniform of variance 2 / fan_in from a generator whose
    stream NumPy has frozen, so the digest of a seed is the same everywhere. Random features rank sets of
    images soundly (Naeem et al. 2020, arXiv:2002.09797, section 4); a few principal components do not:
    a plain Gaussian fit of the pixels beats any sampler there.
    """
    require(channels >= 1, "channels", channels, "at least 1")
    rng = np.random.RandomState(seed)
    weights: dict[str, np.ndarray] = {}
    for i, (fan, width) in enumerate(zip((channels, 16, 32), (16, 32, 48), strict=True)):
        bound = (6 / (9 * fan)) ** 0.5
        weights[f"conv{i}"] = rng.uniform(-bound, bound, (3, 3, fan, width)).astype(np.float32)
    kernels = tuple(jnp.asarray(w) for w in weights.values())
    return FeatureExtractor(
        f"random-cnn-{channels}-{seed}", partial(_random_cnn, kernels), 96, digest_of(weights)
    )


@jax.jit
def _random_cnn(kernels: tuple[Array, ...], x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
    for kernel, stride in zip(kernels, (1, 2, 2), strict=True):
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=layout)
        x = jax.nn.leaky_relu(x, 0.2)
    return jnp.concatenate([jnp.mean(x, (1, 2)), jnp.std(x, (1, 2))], axis=-1)
