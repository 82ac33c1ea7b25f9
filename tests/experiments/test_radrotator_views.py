"""RadRotator: views of procedural and scanned patients, baselines, how views are judged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from radrotating import config

from diffax.data import bodies
from diffax.data.curves import to_unit
from diffax.data.volume import Volume
from diffax.io import write_nifti
from diffax.operators import Ellipsoids, c_arm, render_ellipsoids
from experiments.radrotator import (
    evaluation,
    patients,
    views,
)


def test_pairs_are_the_views_that_the_vector_says_under_one_curve():
    """The front and the angle of the same body, rendered alone; one rising curve for both of them."""
    made = config(arm__size=24, curve__probability=1.0)
    numbers = np.asarray([5, 6, 7], np.uint32)
    found = jax.jit(views.make_draw(made, views.make_render(made)))({"number": numbers}, jax.random.key(3))
    arm = views.make_arm(made)

    @jax.jit
    def alone(number, angles):
        body = bodies.draw_body(bodies.body_key(number))
        return to_unit(render_ellipsoids(body.ellipsoids, c_arm.rays(arm, c_arm.pose(*angles)))[None])[0]

    for k, number in enumerate(numbers):
        x = np.concatenate([alone(number, a).ravel() for a in (jnp.zeros(3), 15.0 * found.vector[k])])
        y = np.concatenate([found.image[k].ravel(), found.target[k].ravel()])
        assert np.diff(y[np.argsort(x)]).min() > -2e-3
        assert np.abs(y - (2 * x - 1)).max() > 0.02
        assert (y.min(), y.max()) == (-1.0, 1.0)
    assert np.abs(found.vector).max() <= 1
    assert np.abs(found.target - found.image).max() > 0.1


def test_a_random_input_is_turned_from_where_it_was_taken():
    """Turning by a then by b is turning by the product: views chain."""
    made = config(input_view="random")
    held = evaluation.held_out_views(made, 2)
    first = held.turns @ np.swapaxes(views.rotations_of(held.vector * 15.0), 1, 2)
    both = np.stack([first, held.turns], axis=1)
    again = evaluation.render_all(made, held.rows, both)
    np.testing.assert_allclose(again[:, 0], held.image, atol=1e-3)
    assert np.abs(first - np.eye(3)).max() > 0.01  # not from the front


def test_training_never_sees_a_held_out_patient():
    stream = patients.make_data(config())(0, 1)
    numbers = np.concatenate([next(stream)["number"] for _ in range(50)])
    assert numbers.min() >= bodies.HELD_OUT
    assert patients.held_out_rows(config(), 5)["number"].max() < bodies.HELD_OUT


def test_volumes_of_ct_are_patients_too(tmp_path):
    axis = np.linspace(-150, 150, 30)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    hu = np.where((x / 120) ** 2 + (y / 90) ** 2 < 1, 0.0, -1000.0)
    hu = np.where((x - 40) ** 2 + (y + 30) ** 2 + z**2 < 30**2, 900.0, hu).astype(np.float32)
    affine = np.diag([300 / 29] * 3 + [1.0])
    write_nifti(tmp_path / "ct.nii.gz", Volume(hu, affine))
    made = config(data__source=str(tmp_path), data__size=24, data__field_mm=300.0, data__pairs=2)
    batch = next(patients.make_data(made)(0, 1))
    assert batch["volume"].shape == (4, 24, 24, 24)
    found = jax.jit(views.make_draw(made, views.make_render(made)))(batch, jax.random.key(0))
    assert found.image.shape == (8, 16, 16, 1)
    _, column = np.unravel_index(np.argmax(evaluation.held_out_views(made, 1).image[0, ..., 0]), (16, 16))
    assert column < 8  # the bone is on the patient's right
    write_nifti(tmp_path / "ct.nii.gz", Volume(np.full_like(hu, -1000.0), affine))
    with pytest.raises(ValueError, match="above -1000"):
        patients.make_data(made)(0, 1)


def test_a_flat_patient_is_turned_as_a_flat_picture():
    """A small ball at the sheet's depth lands where the C-arm projects it; at another depth it does not."""
    arm = c_arm.CArm(1020.0, 800.0, 10.0, (48, 48))
    centre = jnp.array([[40.0, 30.0, -50.0]])
    ball = Ellipsoids(centre, jnp.full((1, 3), 20.0), jnp.eye(3)[None], jnp.ones(1))
    angles = (12.0, -8.0, 10.0)
    front = render_ellipsoids(ball, c_arm.rays(arm, c_arm.pose()))[None, ..., None]
    turn = c_arm.rotation(*angles)[None]
    rows, columns = np.meshgrid(np.arange(48), np.arange(48), indexing="ij")

    def middle(depth):
        shown = np.asarray(views.flat_views(arm, front, turn, depth))[0, ..., 0]
        return np.array([(shown * axis).sum() / shown.sum() for axis in (rows, columns)])

    true = np.asarray(c_arm.project(arm, c_arm.pose(*angles), centre[0]))
    np.testing.assert_allclose(middle(30.0), true, atol=0.15)
    assert np.abs(middle(-30.0) - true).max() > 0.5


@pytest.mark.slow
def test_figures_of_the_truth_and_of_the_input():
    made = config(arm__size=32, eval__retrieval_n=3)
    held = evaluation.held_out_views(made, 3)
    limit = made.angles.limit

    def truth(image, vector, seed, together=False):
        rows = {"number": held.rows["number"][: len(image)]}
        return evaluation.render_all(made, rows, views.rotations_of(vector * limit)[:, None])[:, 0]

    def copy(image, vector, seed, together=False):
        return image

    assert evaluation.agreement(held.target, held.target)["ssim"] == pytest.approx(1.0)
    assert evaluation.agreement(held.target, held.target)["sharpness"] == 1.0
    assert evaluation.retrieval(made, truth, held) == {"retrieval_27": 1.0}
    assert evaluation.retrieval(made, copy, held)["retrieval_27"] < 1.0
    exact = evaluation.landmark_errors(made, held, held.image, exact=True)["landmark_mm"]
    found = evaluation.landmark_errors(made, held, held.target, exact=False)["landmark_mm"]
    assert found < 0.1 * exact
    assert 5.0 < exact < 60.0  # degrees at a depth: centimetres
    assert evaluation.better(held.target, held.image, held.target) == 1.0
