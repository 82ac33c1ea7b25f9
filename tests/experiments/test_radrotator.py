"""RadRotator: what the network is told, guidance, training, students, configurations that cannot be."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from radrotating import config
from stepping import run, same

from configs.radrotator import pelvis, volumes
from diffax import Cosine, gaussian_denoiser, sample
from diffax.io import CheckpointStore
from diffax.processes import grids
from diffax.samplers import ddim, ddpm
from diffax.training import make_mesh
from experiments import build
from experiments.radrotator import (
    experiment,
    method,
    student,
    turning,
    views,
)


@pytest.fixture(scope="module")
def network():
    """A small network, its parameters moved away from the zero output of its start."""
    made = config()
    model = build.make_model(made.model, 0)
    params = method.init_params(made, model, jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    params = jax.tree.unflatten(tree, noisy)
    apply = jax.jit(lambda x, t, cond: model.apply({"params": params}, x, t, cond))
    return made, model, params, apply


def test_the_rotation_can_be_left_out_and_the_radiograph_never_is(network):
    made, _, _, apply = network
    keys = jax.random.split(jax.random.key(2), 4)
    x, image, other = (jax.random.normal(k, (3, made.arm.size, made.arm.size, 1)) for k in keys[:3])
    a = jax.random.normal(keys[3], (3, 3))
    t = jnp.full(3, 0.5)
    given = jnp.array([True, False, True])
    one, turned = (apply(x, t, method.condition(image, v, given)) for v in (a, -a))
    moved = np.abs(one - turned).max(axis=(1, 2, 3))
    assert moved[1] == 0
    assert moved[[0, 2]].min() > 1e-3
    elsewhere = apply(x, t, method.condition(other, a, given))
    assert np.abs(one - elsewhere).max(axis=(1, 2, 3)).min() > 1e-3


def test_an_aligned_network_sees_the_radiograph_turned_as_a_sheet_where_the_rotation_counts():
    """Also in the half of a guided call that does not know the rotation."""
    made = config(align=True, align_mm=20.0)
    image = jax.random.normal(jax.random.key(0), (2, 16, 16, 1))
    vector = jnp.array([[0.5, -1.0, 0.2], [0.1, 0.1, 0.9]])
    seen = []

    def apply_fn(params, x, time, cond):
        seen.append(cond["concat"])
        return x

    denoise = method.make_denoiser(made, apply_fn, {}, build.make_process(made.process))
    method.make_guidance(2.0, 0.0)(denoise)(image, jnp.full(2, 0.5), method.condition(image, vector))
    turned = views.flat_views(views.make_arm(made), image, views.rotations_of(15.0 * vector), 20.0)
    np.testing.assert_allclose(seen[0][:2, ..., 1:], turned, atol=1e-5)
    np.testing.assert_array_equal(seen[0][2:, ..., 1:], image)
    np.testing.assert_array_equal(seen[0][..., :1], jnp.concatenate([image, image]))


def test_guidance_mixes_with_the_network_that_does_not_know_the_rotation(network):
    made, model, params, _ = network
    process = build.make_process(made.process)
    denoise = method.make_denoiser(made, build.make_apply(model), params, process)
    x, image = (jax.random.normal(jax.random.key(k), (2, made.arm.size, made.arm.size, 1)) for k in (1, 2))
    vector, t = jnp.array([[0.5, -1.0, 0.2], [0.1, 0.1, 0.9]]), jnp.full(2, 0.6)
    c, u = (denoise(x, t, method.condition(image, vector, given)) for given in (True, False))
    found = method.make_guidance(3.0, 0.0)(denoise)(x, t, method.condition(image, vector))
    np.testing.assert_allclose(found, jnp.clip(u + 3 * (c - u), -1, 1), atol=1e-4)


def test_no_signal_is_left_at_the_end_and_chains_start_there():
    """A Gaussian's own mean and spread come out of pure noise, whatever its brightness."""
    process = Cosine(t_max=1.0)
    assert abs(float(process.alpha(jnp.asarray(1.0)))) < 1e-6
    keys = jax.random.split(jax.random.key(0), 4000)
    for sampler in (ddim(), ddpm()):
        grid = grids.uniform(process, 200, final="zero")
        found = jax.jit(
            lambda k, s=sampler, g=grid: (
                sample(k, gaussian_denoiser(process, 0.7, 0.04), process, s, g, shape=(1,)).x
            )
        )(keys)
        assert float(found.mean()) == pytest.approx(0.7, abs=0.02)
        assert float(found.std()) == pytest.approx(0.2, rel=0.05)


@pytest.mark.slow
def test_a_run_goes_on_exactly_and_a_student_starts_as_its_teacher(tmp_path):
    made = config()
    whole = run(made, 4)
    with CheckpointStore(tmp_path / "checkpoints", keep=2) as store:
        run(made, 2, store=store)
        broken = run(made, 4, store=store)
    assert same(whole.nets, broken.nets)
    (tmp_path / "config.json").write_text(json.dumps(made.to_dict()))
    own = config(objective="student", teacher=str(tmp_path))
    start = student.begin(own, lambda key: whole.nets["model"].params)(jax.random.key(0))
    assert same(start, whole.nets["model"].averaged(made.sample.ema))
    state = student.make_experiment(own).begin(tmp_path)(jax.random.key(0))
    assert same(state.nets["student"].params, start)
    turn = turning.load_turner(tmp_path, batch_size=2)
    image = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    several = turn.views(image, np.array([[0, 0, 0], [5, 0, 0], [0, 0, 0.0]]))
    np.testing.assert_allclose(several[0], several[2], atol=1e-6)  # one noise for all
    alone = turn.views(image, np.zeros((1, 3)))
    np.testing.assert_allclose(alone[0], several[0], atol=1e-5)  # whatever the batch


@pytest.mark.slow
@pytest.mark.parametrize("source", ["pelvis", "volumes"])
def test_the_published_size_is_traced(source):
    made = {"pelvis": pelvis, "volumes": volumes}[source].get_config("full")
    parts = experiment.make_experiment(made)
    state = jax.eval_shape(parts.init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(state.nets["model"].params))
    assert 80e6 < count < 160e6
    rows = made.train.batch_size // made.data.pairs
    batch = {"number": jax.ShapeDtypeStruct((rows,), np.uint32)}
    if source == "volumes":
        batch["volume"] = jax.ShapeDtypeStruct((rows, *[made.data.size] * 3), np.float16)
    after, metrics = jax.eval_shape(parts.train_step, state, batch)
    assert metrics["loss"].shape == ()
    assert jax.tree.structure(after) == jax.tree.structure(state)


@pytest.mark.slow
def test_a_step_is_the_same_on_one_device_and_on_four():
    made = config()
    one, four = (run(made, 2, mesh=make_mesh(n, 1, 1, devices=jax.devices()[:n])) for n in (1, 4))
    for a, b in zip(jax.tree.leaves(one.nets), jax.tree.leaves(four.nets), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"objective": "dreaming"}, "config.objective"),
        ({"input_view": "behind"}, "config.input_view"),
        ({"angles__limit": 60.0}, "config.angles.limit"),
        ({"data__source": "/no/such/folder"}, "path"),
        ({"data__pairs": 3}, "config.train.batch_size"),
        ({"arm__field_mm": 0.0}, "config.arm.field_mm"),
        ({"arm__sod": 2000.0}, "sdd"),
        ({"curve__points": (2, 5)}, "points"),
        ({"objective": "student"}, "config.teacher"),
        ({"sample__ema": "none"}, "config.sample.ema"),
    ],
)
def test_configurations_that_cannot_be_are_named(changes, named):
    def everything():
        made = config(**changes)
        parts = experiment.make_experiment(made)
        parts.data(0, 1)
        if parts.begin:
            parts.begin(None)

    with pytest.raises(ValueError, match=named):
        everything()
