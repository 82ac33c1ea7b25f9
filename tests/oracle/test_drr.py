"""Digitally reconstructed radiographs against chords of spheres, boxes, ellipsoids and Gaussians."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.operators import c_arm as geometry
from diffax.operators import dot_test
from diffax.operators.c_arm import CArm
from diffax.operators.ellipsoids import Ellipsoids, chords, render_ellipsoids, voxels
from diffax.operators.ray_casting import PROJECTORS, cone_beam, joseph, render, siddon, trilinear

POSES = [(0.0, 0.0, 0.0), (12.0, -9.0, 14.0), (-37.0, 21.0, -5.0), (90.0, 0.0, 0.0)]
ARM = CArm(sdd=1020.0, sod=510.0, spacing=8.0, shape=(31, 24))
fast = {name: jax.jit(project) for name, project in PROJECTORS.items()}


def affine_of(shape, spacing, shift=(0.0, 0.0, 0.0)):
    """A volume around a point of the world."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = np.array(shift) - (np.array(shape) - 1) / 2 * spacing
    return affine


def ends(rays):
    source, target = (np.asarray(p, np.float64) for p in np.broadcast_arrays(rays.source, rays.target))
    return source, target - source


def box_chord(rays, low, high):
    """The slab method in double precision."""
    source, d = ends(rays)
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (low - source) / d, (high - source) / d
    enter = np.clip(np.nanmax(np.minimum(first, second), axis=-1), 0, 1)
    leave = np.clip(np.nanmin(np.maximum(first, second), axis=-1), 0, 1)
    return np.linalg.norm(d, axis=-1) * np.maximum(leave - enter, 0)


def sphere_chord(rays, centre, radius):
    """The quadratic's roots in double precision, within the ray."""
    source, d = ends(rays)
    o, a = source - centre, np.sum(d * d, axis=-1)
    b, c = np.sum(o * d, axis=-1), np.sum(o * o, axis=-1) - radius**2
    root = np.sqrt(np.maximum(b * b - a * c, 0))
    return np.sqrt(a) * (np.clip((root - b) / a, 0, 1) - np.clip((-root - b) / a, 0, 1))


def one(centre, axes, mu=1.0):
    return Ellipsoids(
        *(jnp.asarray(v, jnp.float32)[None] for v in (centre, axes)),
        jnp.eye(3)[None], jnp.full(1, mu),
    )  # fmt: skip


@pytest.mark.parametrize("angles", POSES)
@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.0), (21.0, -34.0, 13.0)])
def test_chords_of_spheres(angles, centre):
    rays = geometry.rays(ARM, geometry.pose(*angles))
    found = chords(one(centre, (50.0, 50.0, 50.0)), rays)[0]
    np.testing.assert_allclose(found, sphere_chord(rays, np.array(centre), 50.0), atol=0.02)


def test_chords_of_turned_ellipsoids():
    """An ellipsoid is a sphere in squeezed space, where the ray is squeezed as well."""
    rays = geometry.rays(ARM, geometry.pose(20.0, 10.0, 5.0))
    turn = np.asarray(geometry.rotation(30.0, 20.0, 10.0), np.float64)
    axes, centre = np.array([60.0, 20.0, 35.0]), np.array([10.0, 5.0, -8.0])
    found = chords(
        Ellipsoids(*(jnp.asarray(v, jnp.float32)[None] for v in (centre, axes, turn)), jnp.ones(1)), rays
    )
    source, d = ends(rays)
    squeezed = ((source - centre) @ turn / axes, (source + d - centre) @ turn / axes)
    share = sphere_chord(type(rays)(*squeezed), np.zeros(3), 1.0) / np.linalg.norm(
        squeezed[1] - squeezed[0], axis=-1
    )
    np.testing.assert_allclose(found[0], share * np.linalg.norm(d, axis=-1), atol=0.02)


def test_a_source_within_and_rays_that_miss():
    rays = geometry.rays(ARM._replace(sod=20.0, sdd=60.0), geometry.pose())
    body = one((0.0, 10.0, 0.0), (40.0, 30.0, 50.0))
    exact = chords(body, rays)[0]
    centre = exact[15, 11]
    assert float(centre) == pytest.approx(40.0, abs=0.2)  # from the source at 20 to the far wall at -20
    assert np.all(np.isfinite(exact))
    slopes = jax.grad(
        lambda shift: jnp.sum(
            chords(one(jnp.array([0.0, 0, 0]) + shift, (9.0, 9.0, 9.0)), geometry.rays(ARM, geometry.pose()))
        )
    )(jnp.zeros(3))
    assert np.all(np.isfinite(slopes))


@pytest.mark.parametrize("angles", POSES)
@pytest.mark.parametrize("shape", [(12, 9, 14), (7, 8, 10)])
@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (3.7, -5.1, 2.2)])
def test_siddon_is_exact_on_a_box(angles, shape, shift):
    spacing = np.array([7.0, 9.0, 5.0])
    affine = affine_of(shape, spacing, shift)
    rays = geometry.rays(ARM, geometry.pose(*angles))
    found = np.asarray(fast["siddon"](jnp.ones(shape), affine, rays))
    half = np.array(shape) * spacing / 2
    expected = box_chord(rays, np.array(shift) - half, np.array(shift) + half)
    edge = (expected < 0.5) & (angles in (POSES[0], POSES[3]))  # a ray along a wall is on either side of it
    np.testing.assert_allclose(np.where(edge, 0, found), np.where(edge, 0, expected), atol=0.01)
    assert np.linalg.norm(found - expected) < 5e-5 * np.linalg.norm(expected) or edge.any()


def test_siddon_of_random_voxels_is_the_sum_of_their_boxes():
    shape, spacing = (5, 4, 3), np.array([11.0, 13.0, 17.0])
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    affine = affine_of(shape, spacing)
    for angles in POSES[1:3]:
        rays = geometry.rays(ARM, geometry.pose(*angles))
        expected = 0.0
        for index in np.ndindex(shape):
            centre = affine[:3, :3] @ index + affine[:3, 3]
            expected = expected + values[index] * box_chord(rays, centre - spacing / 2, centre + spacing / 2)
        np.testing.assert_allclose(fast["siddon"](values, affine, rays), expected, atol=2e-3)


def test_siddon_from_a_source_within_the_volume():
    shape, spacing = (10, 10, 10), np.array([6.0, 6.0, 6.0])
    rays = geometry.rays(ARM._replace(sod=12.0, sdd=40.0, spacing=1.0), geometry.pose(5.0, 3.0, 0.0))
    found = fast["siddon"](jnp.ones(shape), affine_of(shape, spacing), rays)
    np.testing.assert_allclose(found, box_chord(rays, -np.full(3, 30.0), np.full(3, 30.0)), atol=0.01)


@pytest.mark.parametrize(("odd", "shift"), [(0, (0.0, 0.0, 0.0)), (1, (1.3, -0.7, 0.4))])
def test_gaussian_blobs(odd, shift):
    """``a sigma sqrt(2 pi) exp(-distance^2 / 2 sigma^2)`` for a ray at a distance from the centre.

    Half the voxels' side halves Siddon's error at least, and divides that of the others by four.
    """
    sigma, errors = 14.0, {name: [] for name in fast}
    for size in (24 + odd, 48 + odd):
        spacing = 120.0 / size
        affine = affine_of((size,) * 3, np.full(3, spacing), shift)
        axes = [affine[i, i] * np.arange(size) + affine[i, 3] for i in range(3)]
        squares = sum(
            np.square(a).reshape([-1 if i == k else 1 for k in range(3)]) for i, a in enumerate(axes)
        )
        volume = jnp.asarray(np.exp(-squares / (2 * sigma**2)), jnp.float32)
        rays = geometry.rays(ARM, geometry.pose(12.0, -9.0, 14.0))
        source, d = ends(rays)
        unit = d / np.linalg.norm(d, axis=-1, keepdims=True)
        away = np.sum(source**2, axis=-1) - np.sum(source * unit, axis=-1) ** 2
        expected = sigma * np.sqrt(2 * np.pi) * np.exp(-away / (2 * sigma**2))
        for name, project in fast.items():
            error = np.linalg.norm(project(volume, affine, rays) - expected)
            errors[name].append(error / np.linalg.norm(expected))
    for name, bound, order in (("siddon", 0.012, 1.9), ("trilinear", 6e-3, 3.5), ("joseph", 6e-3, 3.5)):
        assert errors[name][1] < bound, (name, errors[name])
        assert errors[name][0] / errors[name][1] > order, (name, errors[name])


def test_trilinear_is_exact_on_a_linear_field():
    """Away from the border, the integral is the chord times the mean of its ends' values."""
    shape = (20, 20, 20)
    affine = affine_of(shape, np.full(3, 10.0))
    axes = [affine[i, i] * np.arange(20) + affine[i, 3] for i in range(3)]
    slope = np.array([0.01, -0.02, 0.03])
    x, y, z = np.meshgrid(*axes, indexing="ij")
    volume = jnp.asarray(5 + slope[0] * x + slope[1] * y + slope[2] * z, jnp.float32)
    # from within to within: both ends well inside the field
    inner = geometry.rays(CArm(sdd=60.0, sod=30.0, spacing=2.0, shape=(9, 9)), geometry.pose(25.0, 10.0, 0.0))
    source, d = ends(inner)
    expected = np.linalg.norm(d, axis=-1) * (5 + (source + d / 2) @ slope)
    np.testing.assert_allclose(fast["trilinear"](volume, affine, inner), expected, rtol=1e-5)


def test_a_parallel_beam_conserves_mass_whatever_the_angle():
    """``sum p dx dy = sum mu dV``; and the far source comes near to it."""
    rng = np.random.default_rng(1)
    volume = jnp.asarray(np.pad(rng.random((8, 9, 7)), 4), jnp.float32)
    affine = affine_of(volume.shape, np.full(3, 5.0))
    arm = CArm(sdd=300.0, sod=np.inf, spacing=0.5, shape=(220, 220))
    for angles in POSES:
        rays = geometry.rays(arm, geometry.pose(*angles))
        for name, bound in (("siddon", 2e-3), ("trilinear", 2e-3), ("joseph", 2e-2)):
            mass = float(jnp.sum(fast[name](volume, affine, rays))) * arm.spacing**2
            assert mass == pytest.approx(float(volume.sum()) * 125.0, rel=bound), (name, angles)
    far = CArm(sdd=1e5 + 100.0, sod=1e5, spacing=5.0, shape=(24, 24))
    near, limit = (fast["siddon"](volume, affine, geometry.rays(a, geometry.pose(3.0, 2.0, 1.0)))
                   for a in (far, far._replace(sod=np.inf, sdd=300.0)))  # fmt: skip
    assert np.linalg.norm(near - limit) < 0.01 * np.linalg.norm(limit)


def test_magnification_and_where_points_fall():
    arm = CArm(sdd=1000.0, sod=400.0, spacing=4.0, shape=(101, 121))
    for angles in POSES:
        at = geometry.pose(*angles, isocentre=(10.0, -20.0, 30.0))
        for point in ((10.0, -20.0, 30.0), (35.0, -20.0, 50.0), (-8.0, 15.0, 12.0)):
            image = render_ellipsoids(one(point, (6.0, 6.0, 6.0)), geometry.rays(arm, at))
            i, j = np.meshgrid(*map(np.arange, arm.shape), indexing="ij")
            mean = [float((image * k).sum() / image.sum()) for k in (i, j)]
            expected = geometry.project(arm, at, jnp.array(point))
            np.testing.assert_allclose(mean, expected, atol=0.15)
    at = geometry.pose()
    moved = geometry.project(arm, at, jnp.array([[0.0, 0.0, 10.0], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(moved[1] - moved[0], [10.0 * 2.5 / 4.0, 0.0], atol=1e-5)  # sdd / sod


def test_sides_and_signs():
    arm = CArm(sdd=1000.0, sod=500.0, spacing=4.0, shape=(64, 64))
    right, head, front = jnp.array([30.0, 0, 0]), jnp.array([0, 0, 30.0]), jnp.array([0, 30.0, 0])
    ap = geometry.view("ap")
    middle = geometry.project(arm, ap, jnp.zeros(3))
    assert geometry.project(arm, ap, right)[1] < middle[1]  # the patient's right at the left
    assert geometry.project(arm, ap, head)[0] < middle[0]  # the head above
    assert geometry.project(arm, geometry.view("pa"), right)[1] > middle[1]
    left_source = geometry.rays(arm, geometry.view("left")).source[0, 0]
    np.testing.assert_allclose(left_source, [-500.0, 0, 0], atol=1e-3)
    assert geometry.rays(arm, geometry.pose(10.0)).source[0, 0, 0] < 0  # yaw: to the patient's left
    assert geometry.rays(arm, geometry.pose(0.0, 10.0)).source[0, 0, 2] > 0  # pitch: towards the head
    # a source from the left sees what lies in front drift to the patient's right, which is at the left
    assert geometry.project(arm, geometry.pose(10.0), front)[1] < middle[1]
    turned = geometry.project(arm, geometry.pose(0.0, 0.0, 90.0), head)
    np.testing.assert_allclose(turned - middle, [0.0, 15.0], atol=1e-4)  # clockwise
    at, sod = geometry.look_at(jnp.array([-300.0, 400.0, 0.0]), jnp.zeros(3))
    assert float(sod) == pytest.approx(500.0)
    np.testing.assert_allclose(geometry.rays(arm, at).source[0, 0], [-300.0, 400.0, 0.0], atol=1e-3)
    np.testing.assert_allclose(jnp.linalg.det(at.rotation), 1.0, atol=1e-6)


@pytest.mark.parametrize("name", ["trilinear", "joseph"])
def test_pose_gradients_against_central_differences(name):
    body = Ellipsoids(jnp.array([[4.0, -6, 8], [-15, 10, 3]]), jnp.array([[30.0, 22, 26], [12, 15, 9]]),
                      jnp.stack([geometry.rotation(20.0, 5.0, 0.0)] * 2), jnp.array([1.0, 2.0]))  # fmt: skip
    shape = (40, 40, 40)
    affine = affine_of(shape, np.full(3, 2.5))
    rough = np.asarray(voxels(body, shape, affine))
    kernel = np.exp(-np.square(np.arange(-9, 10)) / 18.0)
    for axis in range(3):  # smooth enough for differences to mean something
        rough = np.apply_along_axis(lambda v: np.convolve(v, kernel / kernel.sum(), "same"), axis, rough)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=ARM.shape), jnp.float32)

    @jax.jit
    def value(parameters):
        rays = geometry.rays(
            ARM._replace(spacing=4.0), geometry.pose(*parameters[:3], isocentre=parameters[3:])
        )
        return jnp.sum(jnp.sin(weights * 3) * PROJECTORS[name](jnp.asarray(rough, jnp.float32), affine, rays))

    at = jnp.array([6.0, -4.0, 9.0, 1.0, 2.0, -0.7])
    slopes = jax.jit(jax.grad(value))(at)
    step = 0.3
    expected = [(value(at.at[k].add(step)) - value(at.at[k].add(-step))) / (2 * step) for k in range(6)]
    assert np.linalg.norm(slopes - np.array(expected)) < 0.005 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    "ends", [((-5, -5, 2), (20, 20, 2)), ((-5, -5, -5), (20, 20, 20)), ((20, -5, 2), (-5, 20, 2))]
)
@pytest.mark.parametrize("shift", [0.0, 0.1, 1e3])
def test_siddon_through_the_edges_of_voxels(ends, shift):
    """Diagonals pass two or three walls at once, or nearly so by rounding: every voxel counts once."""
    volume = np.random.default_rng(5).random((16, 16, 16)).astype(np.float32)
    affine = np.eye(4)
    affine[:3, 3] = shift
    source, target = (jnp.asarray(end, jnp.float32) + shift for end in ends)
    found = fast["siddon"](volume, affine, geometry.Rays(source, target[None]))
    ends = np.array(ends)
    along = np.linspace(0, 1, 26)[:, None]
    cells = (ends[0] + along * (ends[1] - ends[0])).round().astype(int)
    cells = cells[np.all((cells >= 0) & (cells < 16), axis=1)]
    step = np.linalg.norm(ends[1] - ends[0]) / 25
    np.testing.assert_allclose(
        found[0], step * volume[tuple(cells.T)].sum(), rtol=1e-3 if shift > 1 else 1e-5
    )


@pytest.mark.parametrize("name", ["trilinear", "joseph"])
def test_slopes_of_rays_on_the_centres_of_voxels(name):
    """A ramp's integral moves with a ray by the slope times the chord, on centres as between them."""
    ramp = jnp.broadcast_to(jnp.arange(9.0)[:, None, None], (9, 8, 9))

    def value(x):
        source, target = jnp.array([4.0, 30.0, 4.0]), jnp.array([4.0, -30.0, 4.0])
        across = jnp.stack([x, 0.0, 0.0])
        return PROJECTORS[name](ramp, np.eye(4), geometry.Rays(source + across, (target + across)[None]))[0]

    slopes = jax.jit(jax.vmap(jax.grad(value)))(jnp.array([0.0, 0.3, 1.0]))
    np.testing.assert_allclose(slopes, np.full(3, 8.0), rtol=0.02)


@pytest.mark.parametrize("name", PROJECTORS)
def test_rays_that_are_not_numbers_harm_no_others(name):
    rays = geometry.rays(ARM, geometry.pose(5.0, 3.0))
    broken = rays._replace(target=rays.target.at[3, 4].set(jnp.nan))
    options = {"axis": 1} if name == "joseph" else {}
    project = partial(
        PROJECTORS[name], jnp.ones((10, 10, 10)), affine_of((10, 10, 10), np.full(3, 9.0)), **options
    )
    found, expected = project(broken), project(rays)
    assert np.isnan(found[3, 4])
    np.testing.assert_array_equal(found.at[3, 4].set(0), expected.at[3, 4].set(0))


@pytest.mark.parametrize("name", PROJECTORS)
def test_adjoints(name):
    shape = (11, 13, 9)
    affine = affine_of(shape, np.array([8.0, 7.0, 9.0]), (2.0, 1.0, -3.0))
    views = [geometry.rays(ARM, geometry.pose(*angles)) for angles in POSES[1::2]]
    assert dot_test(cone_beam(shape, affine, views, name), jax.random.key(0)) < 1e-5


@pytest.mark.parametrize("name", PROJECTORS)
def test_chunks_and_batches_change_nothing(name):
    shape = (10, 11, 12)
    affine = affine_of(shape, np.full(3, 9.0))
    volume = jax.random.uniform(jax.random.key(1), shape)
    options = {"axis": 1} if name == "joseph" else {}
    poses = jax.vmap(geometry.pose)(jnp.array([0.0, 10.0]), jnp.array([5.0, -5.0]))
    views = jax.vmap(lambda at: render(volume, affine, geometry.rays(ARM, at), name, **options))(poses)
    for number in range(2):
        rays = geometry.rays(ARM, jax.tree.map(lambda v, n=number: v[n], poses))
        whole = render(volume, affine, rays, name, **options)
        parts = render(volume, affine, rays, name, chunk=100, **options)
        np.testing.assert_allclose(parts, whole, atol=1e-3)
        np.testing.assert_allclose(views[number], whole, atol=1e-3)


def test_bodies_as_voxels_look_alike():
    body = Ellipsoids(jnp.array([[0.0, 0, 0], [20, 10, -5]]), jnp.array([[60.0, 40, 70], [15, 12, 18]]),
                      jnp.stack([jnp.eye(3), geometry.rotation(30.0)]), jnp.array([0.02, 0.03]))  # fmt: skip
    shape = (64, 48, 72)
    affine = affine_of(shape, np.full(3, 2.2))
    rays = geometry.rays(ARM, geometry.pose(10.0, 5.0, 0.0))
    exact, volume = render_ellipsoids(body, rays), voxels(body, shape, affine)
    for project in (siddon, trilinear, joseph):
        found = project(volume, affine, rays)
        assert np.linalg.norm(found - exact) < 0.025 * np.linalg.norm(exact)


@pytest.mark.parametrize("sod", [510.0, np.inf])
def test_a_detector_as_large_as_a_volume_needs(sod):
    """All corners fall on it, and one of them on its edge."""
    shape, spacing = (20, 30, 40), np.array([5.0, 4.0, 6.0])
    affine = affine_of(shape, spacing, (7.0, -3.0, 11.0))
    centre = geometry.centre_of(shape, affine)
    np.testing.assert_allclose(centre, (7.0, -3.0, 11.0))
    arm = geometry.auto_fov(CArm(sod=sod, shape=(31, 24)), shape, affine)
    signs = np.array(list(np.ndindex(2, 2, 2))) * 2 - 1
    corners = jnp.asarray(np.array(centre) + signs * shape * spacing / 2, jnp.float32)
    at = np.asarray(geometry.project(arm, geometry.pose(isocentre=centre), corners))
    beyond = np.maximum(-0.5 - at, at - (np.array(arm.shape) - 0.5))
    assert beyond.max() == pytest.approx(0.0, abs=1e-3)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="sod: got -1"):
        geometry.rays(CArm(sod=-1.0), geometry.pose())
    with pytest.raises(ValueError, match="sdd: got 100"):
        geometry.rays(CArm(sdd=100.0), geometry.pose())
    with pytest.raises(ValueError, match="view: got 'up'"):
        geometry.view("up")
    with pytest.raises(ValueError, match="method: got 'rotate'"):
        render(jnp.ones((2, 2, 2)), np.eye(4), geometry.rays(ARM, geometry.pose()), "rotate")
    with pytest.raises(ValueError, match="axis: got 3"):
        joseph(jnp.ones((2, 2, 2)), np.eye(4), geometry.rays(ARM, geometry.pose()), axis=3)
