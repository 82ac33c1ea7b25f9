"""Tomography as part of a program: what is refused, and that jit, vmap and scan take the operators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.inverse import fbp, ramp_filter, view_weights
from diffax.operators import ParallelBeam, fan_beam, parallel_beam

GOOD = {"shape": (6, 5, 2), "angles": np.array([0.0, 1.0]), "detectors": 9}
FAN = {"source_distance": 20.0, "detector_distance": 10.0}

apply = jax.jit(lambda operator, x: operator(x))
normal = jax.jit(lambda operator, x: operator.normal(x))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shape", (6, 5)),
        ("shape", (6, 0, 2)),
        ("shape", (6, -5, 2)),
        ("angles", np.zeros(0)),
        ("angles", np.zeros((2, 2))),
        ("angles", np.array([0.0, np.nan])),
        ("angles", np.array([np.inf])),
        ("angles", np.array([1j])),
        ("detectors", 0),
        ("detectors", -3),
        ("spacing", 0.0),
        ("spacing", float("nan")),
        ("pixel", -1.0),
        ("pixel", float("inf")),
        ("offset", float("nan")),
    ],
)
@pytest.mark.parametrize("make", [parallel_beam, fan_beam])
def test_bad_geometries_are_refused_by_name(make, field, value):
    extra = FAN if make is fan_beam else {}
    with pytest.raises(ValueError, match=f"(?s)^{field}: got .*allowed: "):
        make(**{**GOOD, **extra, field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("source_distance", 4.0), ("source_distance", float("inf")), ("detector_distance", -1.0)],
)
def test_bad_fans_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"(?s)^{field}: got .*allowed: "):
        fan_beam(**GOOD, **{**FAN, field: value})


def test_angles_inside_jit_are_refused():
    with pytest.raises(ValueError, match=r"angles: .*outside jit"):
        jax.jit(lambda a: parallel_beam((4, 4, 1), a, 5)(jnp.ones((4, 4, 1))))(jnp.zeros(2))


def test_a_reach_beyond_the_fixed_point_is_refused_but_not_with_tables():
    far = {**GOOD, "offset": 1e7}
    with pytest.raises(ValueError, match="reach"):
        parallel_beam(**far)
    assert not np.any(parallel_beam(**far, tables=True)(jnp.ones(GOOD["shape"])))


def test_integer_angles_and_lists_are_angles():
    x = jnp.ones((4, 4, 1))
    expected = apply(parallel_beam((4, 4, 1), np.array([0.0, 1.0]), 5), x)
    for angles in ([0.0, 1.0], np.array([0, 1]), jnp.array([0, 1])):
        np.testing.assert_array_equal(apply(parallel_beam([4, 4, 1], angles, 5), x), expected)


def test_wrong_shapes_are_refused():
    operator = parallel_beam(**GOOD)
    assert operator.out_shape == ParallelBeam(**GOOD).out_shape == (2, 9, 2)
    with pytest.raises(ValueError, match="shape of x"):
        operator(jnp.ones((5, 6, 2)))
    with pytest.raises(ValueError, match="sinogram: got"):
        fbp(jnp.ones((2, 8, 2)), ParallelBeam(**GOOD))
    with pytest.raises(ValueError, match="window: got 'box'"):
        fbp(jnp.ones((2, 9, 2)), ParallelBeam(**GOOD), window="box")
    with pytest.raises(ValueError, match="spacing"):
        ramp_filter(jnp.ones((2, 9, 2)), 0.0)


@pytest.mark.parametrize("make", ["free", "fan"])
def test_jit_scan_and_vmap_agree_with_a_plain_call(make):
    operator = fan_beam(**GOOD, **FAN) if make == "fan" else parallel_beam(**GOOD)
    x = jax.random.normal(jax.random.key(0), (3, *GOOD["shape"]))
    expected = np.stack([normal(operator, one) for one in x])
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(jax.jit(jax.vmap(operator.normal))(x), expected, **close)

    @jax.jit
    def scanned(operator, x):
        return jax.lax.scan(lambda carry, one: (carry, operator.normal(one)), 0.0, x)[1]

    np.testing.assert_allclose(scanned(operator, x), expected, **close)


def test_geometries_of_equal_sizes_share_a_program():
    x, before = jnp.ones(GOOD["shape"]), normal._cache_size()
    for angles in ([0.1, 1.3], [0.2, 1.4]):
        normal(parallel_beam(GOOD["shape"], np.array(angles), 9), x)
    assert normal._cache_size() <= before + 1


def test_view_weights():
    even = view_weights(np.arange(4) * np.pi / 4)
    np.testing.assert_allclose(even, np.pi / 4)
    np.testing.assert_allclose(view_weights(np.arange(8) * np.pi / 4), np.pi / 8)  # a full turn counts twice
    np.testing.assert_allclose(view_weights(np.deg2rad([150, 160, 170, 180, 190])), np.pi / 18, atol=1e-8)
    np.testing.assert_allclose(view_weights(np.array([0.7])), np.pi)
    np.testing.assert_allclose(view_weights(np.array([0.0, 0.3])), 0.3, atol=1e-8)
    uneven = view_weights(np.array([0.2, 1.0, 1.1, -1.0]))
    np.testing.assert_allclose(uneven, [1.0, 0.45, (np.pi - 2) / 2, (np.pi - 0.9) / 2], atol=1e-8)


def test_windows_smooth_and_keep_the_mean_response():
    """Every window is one at frequency zero, so sums stay; hann is zero at half a cycle per bin."""
    impulse = jnp.zeros((1, 33, 1)).at[0, 16, 0].set(1.0)
    plain = np.asarray(ramp_filter(impulse))[0, :, 0]
    np.testing.assert_allclose(plain[15:18], [-1 / np.pi**2, 0.25, -1 / np.pi**2], atol=1e-6)
    np.testing.assert_allclose(plain[14], 0.0, atol=1e-6)
    peaks = [
        float(ramp_filter(impulse, 1.0, w)[0, 16, 0]) for w in ("shepp-logan", "cosine", "hamming", "hann")
    ]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] < plain[16]
    np.testing.assert_allclose(peaks[0], 2 / np.pi**2, rtol=2e-3)
    # a raised cosine mixes a bin with its neighbours: h(0) / 2 + h(1) / 2
    np.testing.assert_allclose(peaks[3], 1 / 8 - 1 / (2 * np.pi**2), rtol=1e-4)
