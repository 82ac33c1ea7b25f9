"""RadRotator: pairs of views, what the network is told, baselines, evaluation, the programs around a run."""

import json
import threading
import urllib.error
import urllib.request

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launching import launch, launch_module
from stepping import run, same

from configs.radrotator import pelvis, volumes
from diffax import Cosine, gaussian_denoiser, sample
from diffax.data import bodies
from diffax.data.curves import to_unit
from diffax.data.volume import Volume
from diffax.io import CheckpointStore, write_nifti
from diffax.operators import Ellipsoids, c_arm, render_ellipsoids
from diffax.processes import grids
from diffax.samplers import ddim, ddpm
from diffax.training import make_mesh
from experiments import build
from experiments.radrotator import (
    evaluation,
    experiment,
    method,
    patients,
    rotate,
    serve,
    student,
    turning,
    views,
)
from experiments.radrotator.radiographs import Given


def config(**changes):
    """The smoke test's configuration, with a network that compiles quickly."""
    made = pelvis.get_config("smoke")
    made.model.channel_multipliers, made.model.middle_attention = (1,), False
    for dotted, value in changes.items():
        made.update_from_flattened_dict({dotted.replace("__", "."): value})
    return made


# ---- pairs of views


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


# ---- the network and what it is told


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


# ---- baselines and figures


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


# ---- training


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


# ---- programs


class Shifting:
    """In the network's place: the picture moved by the rotation's pixels, so that a view tells its angle."""

    config = pelvis.get_config("smoke")
    size, limit = 16, 15.0

    def views(self, image, angles, seed=0):
        return np.stack([np.roll(image, (round(p), round(y)), (0, 1)) for y, p, _ in angles])


@pytest.fixture
def page():
    square = np.zeros((16, 16), np.float32)
    square[4, 6] = 1.0
    given = Given(square, (16, 16), None, "type", False)
    with serve.make_server(Shifting(), given, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as reply:
        return reply.read()


def picture(content):
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(content)))


def test_the_page_shows_what_the_sliders_ask_for(page):
    assert b"<input type=" in get(page)
    assert json.loads(get(page + "/about.json"))["limit"] == 15.0
    front, turned = (picture(get(f"{page}/view.png?yaw={yaw}&pitch=2")) for yaw in (0, 5))
    assert np.unravel_index(front.argmax(), front.shape) == (6, 6)
    assert np.unravel_index(turned.argmax(), turned.shape) == (6, 11)
    assert picture(get(f"{page}/uncertainty.png?yaw=1")).shape == (16, 16, 3)


def test_another_radiograph_can_be_opened_and_a_broken_one_is_refused(page):
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (32, 1))).save(stream, "PNG")
    request = urllib.request.Request(page + "/radiograph?name=a.png", data=stream.getvalue())
    urllib.request.urlopen(request, timeout=20).close()
    assert picture(get(page + "/original.png")).shape == (192, 384)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(page + "/radiograph?name=b.png", data=b"no picture", timeout=20)
    assert "b.png" in error.value.read().decode()
    assert picture(get(page + "/original.png")).shape == (192, 384)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/view.png?yaw=left", {}),
        ("/view.png?pitch=nan", {}),
        ("/view.png?seed=-1", {}),
        ("/about.json", {"Host": "evil.example:80"}),
        ("/about.json", {"Origin": "http://evil.example"}),
        ("/../setup.cfg", {}),
    ],
)
def test_the_page_refuses(page, path, headers):
    with pytest.raises(urllib.error.HTTPError) as error:
        get(page + path, **headers)
    assert error.value.code in (400, 404)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"image": ""}, "--image"),
        ({"workdir": ""}, "--workdir"),
        ({"out": ""}, "--out"),
        ({"yaw": float("nan")}, "--yaw"),
        ({"sweep": "sphere"}, "--sweep"),
        ({"sweep": "grid", "out": "a.png"}, "--out"),
        ({"seeds": 4, "out": "a.png"}, "--out"),
        ({"out": "view.jpg"}, "--out"),
        ({"seeds": 0}, "--seeds"),
        ({"step": 0.0}, "--step"),
        ({"film": "avi"}, "--film"),
        ({"port": 99999}, "--port"),
    ],
)
def test_flags_of_rotate_that_cannot_be(changes, named):
    good = {"image": "a.png", "workdir": "run", "out": "out", "sweep": "", "film": "gif", "serve": False}
    good |= {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "step": 5.0, "fps": 10.0}
    good |= {"seeds": 1, "size": 256, "port": 0}
    rotate.check(good)
    with pytest.raises(ValueError, match=named):
        rotate.check(good | changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the launcher, trained and evaluated."""
    folder = tmp_path_factory.mktemp("radrotator") / "run"
    small = ("--config.model.channel_multipliers=(1,)", "--config.model.middle_attention=False")
    for mode in ("train", "eval"):
        done = launch(folder, *small, config="configs/radrotator/pelvis.py:smoke", mode=mode)
        assert done.returncode == 0, done.stderr
    return folder


def test_the_figures_and_pictures_of_a_run(trained):
    names = {figure["name"] for figure in json.loads((trained / "result.json").read_text())["figures"]}
    assert {"psnr", "ssim", "retrieval_27", "landmark_mm", "style_loss", "copy/psnr", "flat/psnr"} <= names
    assert (trained / "views.png").exists()
    assert (trained / "angles.png").exists()


def test_a_radiograph_is_turned(trained, tmp_path):
    """A view that was not trained, a grid, a file that is not there."""
    from PIL import Image

    Image.fromarray(np.tile(np.arange(60, dtype=np.uint16) * 900, (40, 1))).save(tmp_path / "xray.png")
    common = {"image": tmp_path / "xray.png", "workdir": trained}
    module = "experiments.radrotator.rotate"
    done = launch_module(module, **common, yaw=20, out=tmp_path / "one.png")
    assert done.returncode == 0, done.stderr
    assert "outside the trained" in done.stderr
    assert Image.open(tmp_path / "one.png").size == (256, 171)
    done = launch_module(module, **common, sweep="grid", step=15, out=tmp_path / "grid", film="gif")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "grid").glob("view-*.png"))) == 27
    assert (tmp_path / "grid" / "film.gif").exists()
    done = launch_module(module, image=tmp_path / "none.png", workdir=trained, out=tmp_path / "bad")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "bad").exists()


@pytest.mark.slow
def test_a_run_is_tried_on_another_source(trained, tmp_path):
    compare = "experiments.radrotator.compare"
    done = launch_module(compare, workdir=trained, source="chest", n=2, out=tmp_path / "chest")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "chest" / "result.json").read_text())["figures"]
    assert {figure["split"] for figure in found} == {"of another source, chest"}
