"""Procedural patients: other ones for other keys, landmarks where the bones are seen, volumes that agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.data import Stream, bodies
from diffax.data.cubes import cube_affine, random_warp, to_cube
from diffax.data.volume import Volume
from diffax.operators import CArm, c_arm, render_ellipsoids
from diffax.operators.ellipsoids import voxels
from diffax.operators.ray_casting import joseph

ARM = CArm(1020.0, 800.0, 480 / 64 * 1020 / 800, (64, 64))


def radiograph(body, angles=(0.0, 0.0, 0.0)):
    return render_ellipsoids(body.ellipsoids, c_arm.rays(ARM, c_arm.pose(*angles)))


@pytest.mark.parametrize("kind", bodies.BODIES)
def test_patients_differ_by_their_number_alone(kind):
    draw = jax.jit(lambda n: bodies.draw_body(bodies.body_key(n), kind))
    one, again, other = draw(3), draw(3), draw(4)
    np.testing.assert_array_equal(one.ellipsoids.centre, again.ellipsoids.centre)
    assert np.abs(one.ellipsoids.centre - other.ellipsoids.centre).max() > 1
    assert np.all(np.asarray(one.ellipsoids.axes) > 0)
    lines = np.asarray(radiograph(one))
    assert lines.min() > -1e-3  # gas and lungs take no more away than there is
    assert 2.5 < lines.max() < 12  # as through a trunk


@pytest.mark.parametrize("kind", bodies.BODIES)
def test_landmarks_are_named_and_on_their_sides(kind):
    names = bodies.landmark_names(kind)
    found = np.asarray(bodies.draw_body(bodies.body_key(0), kind).landmarks)
    assert found.shape == (len(names), 3)
    for name, (x, _, _) in zip(names, found, strict=True):
        if name.endswith(("_right", "_left")):
            assert (x > 0) == name.endswith("_right"), name


def test_a_landmark_is_where_its_bone_is_seen():
    """Without the femoral head the radiograph changes about the head's projection."""
    body = bodies.draw_body(bodies.body_key(7))
    names = [part.name for part in bodies.PELVIS for _ in range(1 + part.both)]
    number = names.index("femoral_head")
    without = body._replace(ellipsoids=body.ellipsoids._replace(mu=body.ellipsoids.mu.at[number].set(0.0)))
    angles = (12.0, -9.0, 5.0)
    change = np.asarray(radiograph(body, angles) - radiograph(without, angles))
    rows, columns = np.meshgrid(np.arange(64), np.arange(64), indexing="ij")
    seen = [(change * axis).sum() / change.sum() for axis in (rows, columns)]
    place = body.landmarks[bodies.landmark_names("pelvis").index("femoral_head_right")]
    np.testing.assert_allclose(seen, c_arm.project(ARM, c_arm.pose(*angles), place), atol=0.1)


@pytest.mark.slow
def test_radiographs_agree_with_those_of_the_body_as_a_volume():
    body = bodies.draw_body(bodies.body_key(1))
    affine = jnp.asarray(cube_affine(96, 560.0), jnp.float32)
    volume = voxels(body.ellipsoids, (96, 96, 96), affine)
    rays = c_arm.rays(ARM, c_arm.pose(8.0, -6.0, 0.0))
    a, b = render_ellipsoids(body.ellipsoids, rays), joseph(volume, affine, rays, 1)
    inner = (slice(12, -12), slice(12, -12))  # the trunk is longer than the cube
    assert np.linalg.norm((a - b)[inner]) / np.linalg.norm(a[inner]) < 0.02


def test_a_cube_shows_the_same_field_of_an_oblique_volume():
    """A linear field is interpolated exactly, whatever grid it was stored on."""
    turn = np.asarray(c_arm.rotation(20.0, -10.0, 5.0), np.float64)
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([2.0, 3.0, 2.5])
    affine[:3, 3] = [10.0, -40.0, 7.0]
    shape = (40, 30, 36)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    slope = np.array([1.0, -2.0, 0.5])
    volume = Volume((world @ slope).astype(np.float32), affine)
    cube = to_cube(volume, 10, 30.0, outside=-1e3)
    centre = (np.array(shape) - 1) / 2 @ affine[:3, :3].T + affine[:3, 3]
    axis = (np.arange(10) - 4.5) * 3.0
    own = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1) + centre
    np.testing.assert_allclose(cube, own @ slope, atol=0.05)
    far = to_cube(volume, 10, 600.0, outside=-1e3)
    assert far[0, 0, 0] == -1e3


def test_warps_are_smooth_and_as_strong_as_they_say():
    x = jnp.broadcast_to(jnp.arange(48.0)[:, None, None], (48, 48, 48))
    moves = []
    for seed in range(6):
        moved = np.asarray(random_warp(jax.random.key(seed), x, 0.03) - x)[12:-12, 12:-12, 12:-12]
        moves.append(moved)
        assert np.abs(np.diff(moved, axis=0)).max() < 0.6  # nothing folds
    assert np.std(moves) == pytest.approx(0.03 * 48, rel=0.35)
    np.testing.assert_allclose(random_warp(jax.random.key(0), x, 0.0)[:-1], x[:-1], atol=1e-3)


def test_streams_of_any_rows_are_shared_between_hosts_and_go_on():
    def draw(generator, rows):
        return {"number": generator.integers(0, 1000, rows)}

    whole = Stream(draw, 6, seed=1)
    parts = [Stream(draw, 3, seed=1, shard_index=i, shard_count=2) for i in range(2)]
    first = next(whole)["number"]
    np.testing.assert_array_equal(first, np.concatenate([next(part)["number"] for part in parts]))
    state = whole.get_state()
    second = next(whole)["number"]
    again = Stream(draw, 6, seed=1)
    again.set_state(state)
    np.testing.assert_array_equal(next(again)["number"], second)


def test_an_unknown_body_is_refused():
    with pytest.raises(ValueError, match="pelvis"):
        bodies.draw_body(jax.random.key(0), "knee")
