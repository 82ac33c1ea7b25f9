"""Extractors: batching, digests, what random features rank, and FID's Inception against its port."""

import json
import struct
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.data import digits, stack_items
from diffax.evaluation import (
    extract,
    frechet_distance,
    inception_features,
    map_batches,
    random_features,
    stream_stats,
)
from diffax.evaluation.features import FeatureExtractor, digest_of
from diffax.evaluation.inception import FidInception, resize_299, torch_names
from diffax.evaluation.weights import read_state_dict


def _images(n, shape=(8, 8, 1), seed=0):
    return np.random.RandomState(seed).uniform(-1, 1, (n, *shape)).astype(np.float32)


def test_batches_do_not_change_features_and_compile_once():
    traces = []

    @jax.jit
    def fn(x):
        traces.append(x.shape)
        return jnp.stack([x.mean((1, 2, 3)), x.max((1, 2, 3))], 1)

    x = _images(23)
    features = extract(FeatureExtractor("test", fn, 2, ""), x, batch_size=5)
    np.testing.assert_allclose(features, np.stack([x.mean((1, 2, 3)), x.max((1, 2, 3))], 1), atol=1e-6)
    assert traces == [(5, 8, 8, 1)]
    streamed = stream_stats(map_batches(fn, x, 5))
    np.testing.assert_allclose(streamed.mean, features.mean(0), atol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 8, 8, 1), np.float32), r"images: shape: got \(0, 8, 8, 1\)"),
        (_images(7) * 255, r"images\[0:5\]: got 25\d.*, allowed: finite, in \[-1, 1\]"),
        (np.where(np.arange(7) == 6, np.nan, _images(7).T).T, r"images\[5:7\]: got nan"),
    ],
)
def test_extract_refuses_images_out_of_range(images, message):
    with pytest.raises(ValueError, match=message):
        extract(random_features(1), images, batch_size=5)


def test_an_extractor_that_lies_about_its_size_is_refused():
    with pytest.raises(ValueError, match=r"features of x: shape: got \(3, 1\), allowed: \(3, 2\)"):
        extract(FeatureExtractor("x", lambda x: x.mean((1, 2)), 2, ""), _images(3))


def test_digests_tell_weights_apart():
    w = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2)}
    variants = [
        w | {"a": w["a"].T.copy()},
        w | {"a": w["a"].astype(np.float64)},
        {"a": w["a"], "c": w["b"]},
        w | {"b": np.array([1, 1 + 1e-15])},
    ]
    assert len({digest_of(v) for v in (w, *variants)}) == 5
    assert digest_of(w) == digest_of({"b": w["b"], "a": np.asfortranarray(w["a"])})
    assert digest_of(w) == digest_of(w | {"a": w["a"].astype(">f4")})


def test_random_features_are_the_same_everywhere():
    extractor = random_features(1, seed=0)
    assert extractor.digest == "0d52efdf74d001b44222679c02dd80e5da129366d8f73f59f2cba1a0e42d0879"
    assert extractor.label == {"name": "random-cnn-1-0", "digest": extractor.digest}
    assert random_features(1, seed=1).digest != extractor.digest
    assert extract(extractor, _images(3)).shape == (3, 96)
    assert extract(random_features(3), _images(2, (13, 9, 3))).shape == (2, 96)


def test_random_features_rank_digits_where_principal_components_fail():
    train, test = (stack_items(digits(s))["image"] for s in ("train", "test"))
    flat = train.reshape(-1, 64).astype(np.float64)
    rng = np.random.default_rng(0)
    gaussian = rng.multivariate_normal(flat.mean(0), np.cov(flat.T), 1437)
    noise = rng.uniform(-1, 1, flat.shape)
    extractor = random_features(1)

    def distance(x):
        images = x.reshape(-1, 8, 8, 1).clip(-1, 1).astype(np.float32)
        return frechet_distance(extract(extractor, train), extract(extractor, images))

    assert distance(test) < 0.5 * distance(gaussian)
    assert distance(gaussian) < 0.2 * distance(noise)
    _, _, axes = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    project = lambda x: x.reshape(-1, 64) @ axes[:20].T  # noqa: E731
    held_out = frechet_distance(project(flat), project(test))
    assert frechet_distance(project(flat), project(gaussian)) < held_out


# --- Inception


def _weight(name, shape):
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("conv.weight"):
        return (rng.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5).astype(np.float32)
    near_one = name.endswith(("bn.weight", "running_var"))
    return rng.uniform(*((0.8, 1.2) if near_one else (-0.1, 0.1)), shape).astype(np.float32)


# Every 256th feature of pytorch-fid 0.3.0's InceptionV3([3]) (torch 2.13.0, CPU), with the weights of _weight
# and the images of the test below, which that package resizes and scales by itself
_PEER = [
    [0.00408559, 0.98496, 0.164696, 0.37329, 1.48435, 0.0121263, 0.114133, 0.00661624],
    [0.00584389, 1.04846, 0.153433, 0.374695, 1.44318, 0.0128538, 0.139966, 0.0070711],
]
_PEER_NORMS = [35.75012377, 35.35019844]


@pytest.mark.slow
def test_inception_agrees_with_the_port_that_its_weights_come_from(tmp_path):
    state = {name: _weight(name, shape) for name, shape in torch_names().items()}
    np.savez(tmp_path / "w.npz", **state, **{"fc.weight": np.zeros(1), "fc.bias": np.zeros(1)})
    extractor = inception_features(tmp_path / "w.npz")
    images = np.stack([_images(1, (20, 24, 3), seed)[0] for seed in (0, 1)])
    features = extract(extractor, images)
    assert features.shape == (2, 2048)
    np.testing.assert_allclose(features[:, ::256], _PEER, rtol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), _PEER_NORMS, rtol=1e-5)
    assert extractor.digest == digest_of(state)


@pytest.mark.parametrize("shape", [(12, 7, 3), (610, 450, 1)])
def test_resizing_interpolates_between_the_two_nearest_pixels_also_when_it_shrinks(shape):
    image = _images(1, shape)[0].astype(np.float64)
    resized = np.asarray(resize_299(jnp.asarray(image[None], jnp.float32)))[0]

    def taps(i, n):
        at = np.clip((i + 0.5) * n / 299 - 0.5, 0, n - 1)
        low = int(at)
        return low, min(low + 1, n - 1), at - low

    for i, j in [(0, 0), (298, 298), (150, 17), (3, 222), (299 // 2, 100)]:
        top, bottom, u = taps(i, shape[0])
        left, right, v = taps(j, shape[1])
        upper = (1 - v) * image[top, left] + v * image[top, right]
        lower = (1 - v) * image[bottom, left] + v * image[bottom, right]
        expected = (1 - u) * upper + u * lower
        np.testing.assert_allclose(resized[i, j], np.broadcast_to(expected, 3), atol=2e-4)


def test_inception_has_the_published_number_of_parameters():
    names = torch_names()
    sizes = {name: int(np.prod(shape)) for name, shape in names.items()}
    statistics = sum(n for name, n in sizes.items() if "running" in name)
    # torchvision's 23,834,568 for 1000 classes without the auxiliary head, less fc (2049 * 1000);
    # 34,432 are Keras' non-trainable parameters
    assert sum(sizes.values()) - statistics == 23_834_568 - 2_049_000
    assert statistics == 34_432
    assert sum(name.endswith("conv.weight") for name in names) == 94
    for name in (
        "Mixed_7c.branch3x3dbl_3b.conv.weight",
        "Conv2d_4a_3x3.bn.running_var",
        "Mixed_5b.branch_pool.bn.bias",
    ):
        assert name in names


def test_inception_shapes():
    image = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
    out, _ = jax.eval_shape(FidInception().init_with_output, jax.random.key(0), image)
    assert out.shape == (2, 2048)


def test_inception_weights_are_checked(tmp_path):
    with pytest.raises(
        ValueError, match=r"weights: got '.*none.npz', allowed: an existing .npz or .safetensors file"
    ):
        inception_features(tmp_path / "none.npz")
    np.savez(tmp_path / "few.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match=r"weights: .*few.npz: got \"no '.*'\", allowed: a state dict"):
        inception_features(tmp_path / "few.npz")
    zeros = {name: np.zeros(shape, np.float32) for name, shape in torch_names().items()}
    zeros["Mixed_6a.branch3x3.conv.weight"] = np.zeros((3, 3, 288, 384), np.float32)
    np.savez(tmp_path / "flax.npz", **zeros)
    with pytest.raises(ValueError, match=r"shape of Mixed_6a.branch3x3.conv.weight: got \(3, 3, 288, 384\)"):
        inception_features(tmp_path / "flax.npz")
    (tmp_path / "bad.safetensors").write_bytes(b"\x00" * 4)
    with pytest.raises(ValueError, match=r"weights: got '.*bad.safetensors'"):
        inception_features(tmp_path / "bad.safetensors")


def test_safetensors_are_read(tmp_path):
    a, b = np.arange(6, dtype="<f4").reshape(2, 3), np.array([1, -2], "<f2")
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "F16", "shape": [2], "data_offsets": [24, 28]},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    }
    text = json.dumps(header).encode() + b"   "
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + a.tobytes() + b.tobytes())
    state = read_state_dict("weights", path)
    np.testing.assert_array_equal(state["a"], a)
    np.testing.assert_array_equal(state["b"], b)
