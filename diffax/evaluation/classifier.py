"""A small classifier, trained in seconds on the data itself: features and class probabilities for metrics.

It plays the part of Inception where images are small or not photographs. Its features differ from one
seed to the next, so figures are comparable only under one digest: save the classifier and load it again.
"""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int, Key

from diffax.checks import require
from diffax.data import Source, epoch, pipeline
from diffax.data.npz import read_arrays
from diffax.evaluation.features import FeatureExtractor, Images, digest_of, map_batches
from diffax.io.files import write_bytes
from diffax.types import Params

_FEATURES = 64
_EXPOSURE = 0.5  # weight of the outliers in the loss, as in Hendrycks et al. 2019


class SmallCnn(nn.Module):
    """Convolutions with pooling down to at most 4x4, then 64 features, then logits."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b k"], Float[Array, "b d"]]:
        """Returns (logits, features)."""
        stride = 2 if min(x.shape[1:3]) >= 16 else 1  # full resolution costs most and adds little
        x = nn.relu(nn.Conv(16, (3, 3), stride, name="conv0")(x))
        width, block = 32, 1
        while True:
            x = nn.relu(nn.Conv(width, (3, 3), name=f"conv{block}")(x))
            if min(x.shape[1:3]) <= 4:
                break
            x = nn.max_pool(x, (2, 2), (2, 2))
            width, block = min(2 * width, 128), block + 1
        features = nn.leaky_relu(nn.Dense(_FEATURES, name="features")(x.reshape(len(x), -1)), 0.2)
        return nn.Dense(self.num_classes, name="logits")(features), features


class Classifier(NamedTuple):
    """A trained classifier: ``logits`` maps images (b, h, w, c) in [-1, 1] to (b, k).

    ``accuracy`` is the share of ``source_test`` that it gets right; ``image_shape`` what it was trained on.
    """

    params: Params
    logits: Callable[[Array], Array]
    extractor: FeatureExtractor
    accuracy: float
    image_shape: tuple[int, int, int]
    num_classes: int

    def probabilities(self, images: Images, batch_size: int = 256) -> Float[np.ndarray, "n k"]:
        """Class probabilities, for ``classifier_modes``; ``batch_size`` images at a time."""
        return np.concatenate(list(map_batches(lambda x: jax.nn.softmax(self.logits(x)), images, batch_size)))


def train_classifier(
    source_train: Source,
    source_test: Source,
    *,
    seed: int = 0,
    steps: int = 600,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
) -> Classifier:
    """Train ``SmallCnn`` with Adam on randomly shifted images, and measure it on ``source_test``.

    Besides the data it sees as many images that are none (noise, shuffled pixels, a Gaussian of the data's
    covariance) and learns to call them no class: a classifier trained on data alone gave half of all
    noise images some digit with a probability above 0.9. Hendrycks et al. 2019 (arXiv:1812.04606).

    Adam with a cosine-decayed learning rate; images are shifted by up to a sixteenth of their size. The same
    seed gives the same classifier on one machine. Raises ``ValueError`` for sources without labels or of
    other image shapes.
    """
    shape, classes = _check_sources(source_train, source_test)
    model = SmallCnn(classes)
    key, rng = jax.random.key(seed), np.random.default_rng(seed)
    params = _initial_params(model, rng, shape)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    step = jax.jit(partial(_train_step, model, optimizer))
    predict = jax.jit(lambda params, x: jnp.argmax(model.apply(params, x)[0], axis=-1))
    state = (params, optimizer.init(params))
    batches = pipeline(source_train, min(batch_size, len(source_train)), seed)
    for i in range(steps):
        batch = next(batches)
        outliers = _outliers(rng, batch["image"])
        state = step(state, jax.random.fold_in(key, i), batch["image"], batch["label"], outliers)
    correct = [np.asarray(predict(state[0], b["image"])) == b["label"] for b in epoch(source_test, 256)]
    return _bundle(state[0], float(np.concatenate(correct).mean()), shape, classes)


def save_classifier(path: str | Path, classifier: Classifier) -> str:
    """Write weights and facts to a ``.npz`` file, atomically; returns the digest that figures will carry."""
    arrays: dict[str, Any] = {f"weights/{k}": v for k, v in _flatten(classifier.params).items()}
    arrays |= {
        "accuracy": np.float64(classifier.accuracy),
        "image_shape": np.asarray(classifier.image_shape, np.int64),
        "num_classes": np.int64(classifier.num_classes),
        "digest": np.asarray(classifier.extractor.digest),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())
    return classifier.extractor.digest


def load_classifier(path: str | Path) -> Classifier:
    """Read what ``save_classifier`` wrote; features are those of the saved classifier, bit for bit.

    Raises ``ValueError`` naming the file if it is missing, no classifier, or its weights do not have the
    digest that was written with them.
    """
    arrays = read_arrays(path)
    weights = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
    facts = {"accuracy", "image_shape", "num_classes", "digest"}
    allowed = "a file that save_classifier wrote"
    require(bool(weights) and facts <= set(arrays), f"{path}: arrays", sorted(arrays), allowed)
    digest, found = str(arrays["digest"]), digest_of(weights)
    require(found == digest, f"{path}: digest", found, f"{digest}, as written with it")
    params = unflatten_dict({k: jnp.asarray(v) for k, v in weights.items()}, sep="/")
    shape, classes = tuple(arrays["image_shape"].tolist()), int(arrays["num_classes"])
    return _bundle(params, float(arrays["accuracy"]), shape, classes)


def _initial_params(model: SmallCnn, rng: np.random.Generator, shape: tuple[int, ...]) -> Params:
    """Uniform weights of variance 1 / fan_in and zero biases, on the host: nothing to compile."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), jnp.float32))

    def draw(leaf: jax.ShapeDtypeStruct) -> Array:
        bound = (3 / np.prod(leaf.shape[:-1])) ** 0.5 if len(leaf.shape) > 1 else 0.0
        return jnp.asarray(rng.uniform(-bound, bound, leaf.shape), jnp.float32)

    return jax.tree.map(draw, shapes)


def _train_step(
    model: SmallCnn,
    optimizer: optax.GradientTransformation,
    state: tuple[Params, optax.OptState],
    key: Key[Array, ""],
    image: Float[np.ndarray | Array, "b h w c"],
    label: Int[np.ndarray | Array, "b"],
    outliers: Float[np.ndarray | Array, "m h w c"],
) -> tuple[Params, optax.OptState]:
    def loss(params: Params) -> Float[Array, ""]:
        both = jnp.concatenate([_shift(key, image), outliers])
        real, outside = jnp.split(jax.nn.log_softmax(model.apply(params, both)[0]), [len(image)])
        return -jnp.take_along_axis(real, label[:, None], 1).mean() - _EXPOSURE * outside.mean()

    params, opt_state = state
    updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def _shift(key: Key[Array, ""], image: Float[np.ndarray | Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Move each image by up to a sixteenth of its size; edges are repeated into the gap."""
    b, h, w, c = image.shape
    reach = (h // 16, w // 16)
    padded = jnp.pad(image, ((0, 0), (reach[0],) * 2, (reach[1],) * 2, (0, 0)), mode="edge")
    corner = jax.random.randint(key, (b, 2), 0, 2 * jnp.asarray(reach) + 1)
    return jax.vmap(lambda x, at: jax.lax.dynamic_slice(x, (at[0], at[1], 0), (h, w, c)))(padded, corner)


def _outliers(rng: np.random.Generator, image: Float[np.ndarray, "b h w c"]) -> Float[np.ndarray, "m h w c"]:
    """Images that are no data, of three kinds: noise, shuffled pixels, Gaussian of the data's covariance."""
    third = max(len(image) // 3, 1)
    some = image[:third]
    noise = rng.uniform(-1, 1, some.shape)
    shuffled = rng.permuted(some.reshape(third, -1, some.shape[-1]), axis=1).reshape(some.shape)
    # random combinations of centred images are Gaussian with exactly the batch's covariance
    weights = rng.standard_normal((third, len(image))) / len(image) ** 0.5
    mean = image.mean(0)
    gaussian = np.clip(mean + np.tensordot(weights, image - mean, 1), -1, 1)
    return np.concatenate([noise, shuffled, gaussian]).astype(np.float32)


def _bundle(params: Params, accuracy: float, shape: tuple[int, ...], num_classes: int) -> Classifier:
    model = SmallCnn(num_classes)
    features = jax.jit(lambda x: model.apply(params, x)[1])
    extractor = FeatureExtractor("small-cnn", features, _FEATURES, digest_of(_flatten(params)))
    logits = jax.jit(lambda x: model.apply(params, x)[0])
    return Classifier(params, logits, extractor, accuracy, (shape[0], shape[1], shape[2]), num_classes)


def _flatten(params: Params) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep="/").items()}


def _check_sources(train: Source, test: Source) -> tuple[tuple[int, ...], int]:
    for field, source in (("source_train", train), ("source_test", test)):
        require(source.spec.num_classes is not None, field, "no labels", "a source with labels")
    shape, other = train.spec.shapes["image"], test.spec.shapes["image"]
    require(len(shape) == 3, "source_train: image shape", shape, "(h, w, c)")
    require(shape == other, "source_test: image shape", other, f"{shape}, as source_train")
    return tuple(shape), max(train.spec.num_classes or 0, test.spec.num_classes or 0)
