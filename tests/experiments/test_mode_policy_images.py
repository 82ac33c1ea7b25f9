"""Policies that see camera images: from a file to an answer, its export and the server."""

import base64
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from policies import load

from diffax.data.episode_files import Demonstrations, write_demonstrations
from diffax.data.episodes import Episodes
from diffax.models import ActionTransformer, film_resnet
from experiments import modes
from experiments.mode_policy import experiment, exporting, loading, method, server
from experiments.mode_policy.policy import About, ActionChunker, Policy

CAMERAS = ("front", "observation.images.wrist")
CHANGES = {"data.images": CAMERAS, "data.history": 2, "data.horizon": 4, "data.holdout": 0.34}


@pytest.fixture(scope="module", autouse=True)
def small_encoders():
    """The first layer of a ResNet and no stages: the encoders have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(film_resnet.BLOCKS, 18, ())
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Six short episodes; the brightness of the front camera is the action."""
    random = np.random.default_rng(0)
    lengths = random.integers(5, 8, 6)
    rows = int(lengths.sum())
    bright = random.integers(0, 256, rows)
    steps = {
        "hand": random.normal(size=(rows, 2)).astype(np.float32),
        "front": np.broadcast_to(bright[:, None, None, None], (rows, 32, 36, 3)).astype(np.uint8),
        "observation.images.wrist": random.integers(0, 256, (rows, 32, 32, 3)).astype(np.uint8),
        "action": (bright[:, None] / 128 - 1).astype(np.float32),
        "depth": random.normal(size=(rows, 32, 32, 1)).astype(np.float32),
    }
    path = tmp_path_factory.mktemp("seen") / "mine.npz"
    episodes = Episodes(steps, np.cumsum(lengths), np.arange(6) % 2)
    write_demonstrations(path, Demonstrations(episodes, ("Dim it.", "Light it."), {}))
    return path


@pytest.fixture(scope="module")
def config(file):
    given = {"data.file": str(file), "data.fields": ("hand",), **CHANGES, "eval.windows": 6, "baselines": ()}
    steps = {"train.num_steps": 2, "train.checkpoint_every": 2, "train.batch_size": 8}
    return load(file="recorded", **given, **steps)


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory):
    """A run of two steps."""
    where = tmp_path_factory.mktemp("run")
    assert modes.train(config, str(where))
    return where


def observe(policy, seed=0):
    """Something for a policy of one step after another: no axis of time."""
    random, about = np.random.default_rng(seed), policy.about
    images = {name: random.integers(0, 256, shape, np.uint8) for name, shape in about.images.items()}
    return {"state": random.normal(size=2).astype(np.float32), "task": "Light it.", "images": images}


def whole(policy, *seeds):
    """Observations of two steps each."""
    each = [observe(policy, seed) for seed in seeds]
    return [
        {**e, **jax.tree.map(lambda v: np.stack([v, v]), {"state": e["state"], "images": e["images"]})}
        for e in each
    ]


def test_run_answers_by_images_and_so_does_its_export(config, folder):
    modes.evaluate(config, str(folder))
    names = [figure["name"] for figure in json.loads((folder / "result.json").read_text())["figures"]]
    assert names[:2] == ["action_error", "relative_error"]
    file = Path(config.data.file)
    file.rename(file.with_suffix(".away"))  # a policy does not need its demonstrations
    policy = loading.load_policy(folder)
    file.with_suffix(".away").rename(file)
    assert policy.about.images == {"front": (32, 36, 3), "observation.images.wrist": (32, 32, 3)}
    given = whole(policy, 1, 2, 3)
    found = policy.infer_batch(given, [5, 6, 7]).actions
    assert found.shape == (3, 4, 1)
    slack = 1e-5 * np.abs(found).max()
    np.testing.assert_allclose(policy.infer_batch(given[1:2], [6]).actions[0], found[1], atol=slack)
    other = {**given[1], "images": {**given[1]["images"], "front": given[1]["images"]["front"] // 2}}
    assert np.abs(policy.infer_batch([other], [6]).actions[0] - found[1]).max() > 100 * slack
    modes.export(config, str(folder))
    exported = exporting.load_exported_policy(folder / "export" / exporting.FILE)
    assert exported.about == policy.about
    np.testing.assert_allclose(exported.infer_batch(given, [5, 6, 7]).actions, found, atol=slack)


def test_images_are_encoded_once_and_with_guidance_at_every_step(config, folder, monkeypatch):
    """Both ways draw the same where guidance does nothing."""
    trained, _ = loading.load_trained(folder)
    recipe, calls = trained.recipes["model"], []
    encode = ActionTransformer.encode

    def counted(self, cond):
        calls.append(cond["images"]["front"].ndim)
        return encode(self, cond)

    monkeypatch.setattr(ActionTransformer, "encode", counted)
    policy = Policy(None, experiment.about_of(config, experiment.open_suite(config).facts))
    (one,) = whole(policy, 4)
    seen = jax.tree.map(lambda v: jnp.asarray(v)[None], {"state": one["state"], "images": one["images"]})
    keys, task = jax.vmap(jax.random.key)(jnp.arange(1, dtype=jnp.uint32)), jnp.ones(1, jnp.int32)
    drawn = {}
    for scale in (1.0, 1.0 + 1e-6):
        changed = config.copy_and_resolve_references()
        changed.sample.guidance = scale
        act = method.make_act(changed, recipe)
        drawn[scale] = act(trained.nets["model"], trained.normalisers, keys, seen, task)
        assert (5 in calls, 3 in calls) == ((True, True) if scale == 1 else (True, False))
        calls.clear()
    first, second = drawn.values()
    np.testing.assert_allclose(first, second, atol=1e-4 * float(jnp.abs(first).max()))


def test_training_moves_images_and_evaluation_does_not(config):
    suite = experiment.open_suite(config)
    original = {image.tobytes() for image in suite.demonstrations().steps[CAMERAS[1]]}

    def moved(shift):
        changed = config.copy_and_resolve_references()
        changed.data.shift = shift
        with experiment.make_experiment(changed).data(0, 1) as batches:
            batch = next(iter(batches))
        assert batch[CAMERAS[1]].dtype == np.uint8
        return [image.tobytes() not in original for image in batch[CAMERAS[1]].reshape(-1, 32, 32, 3)]

    assert not any(moved(0))
    assert any(moved(4))
    with pytest.raises(ValueError, match="pad: got -1"):
        moved(-1)


def test_weights_from_elsewhere_fill_every_encoder(config, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    random, names = np.random.default_rng(0), ("weight", "bias", "running_mean", "running_var")
    state = {f"bn1.{name}": random.random(64, np.float32) for name in names}
    state["conv1.weight"] = random.random((64, 3, 7, 7), np.float32)
    path = tmp_path / "resnet.safetensors"
    safetensors.save_file(state, path)
    changed = config.copy_and_resolve_references()
    changed.model.image_norm, changed.image_weights = "frozen", str(path)
    given = (
        experiment.make_experiment(changed).begin(tmp_path)(jax.random.key(0)).nets["model"].params["cameras"]
    )
    assert set(given) == set(CAMERAS)
    for camera in CAMERAS:
        kernel, norm = given[camera]["conv_stem"]["kernel"], given[camera]["norm_stem"]
        np.testing.assert_array_equal(kernel, state["conv1.weight"].transpose(2, 3, 1, 0))
        np.testing.assert_array_equal(norm["var"], state["bn1.running_var"])
    changed.model.image_norm = "group"
    with pytest.raises(ValueError, match=r"image_norm: got 'group', allowed: frozen"):
        experiment.make_experiment(changed)


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        (("depth",), r"config\.data\.images: depth: got \('float32'"),
        (("eyes",), "eyes"),
        (("hand",), r"config\.data\.images: hand: got \('float32'"),
    ],
)
def test_fields_that_are_no_images_are_refused(config, cameras, message):
    changed = config.copy_and_resolve_references()
    changed.data.images = cameras
    with pytest.raises(ValueError, match=message):
        experiment.make_experiment(changed)


# -- what is accepted ---------------------------------------------------------------------------------------

ABOUT = About(("reach", "push"), 2, 3, 5, 2, {"front": (32, 40, 3)})


def brightness(seeds, seen, task):
    """Actions that are the means of the last and of the first image."""
    means = seen["images"]["front"].reshape(len(seeds), 2, -1).mean(axis=2)
    return np.repeat(means[:, None, ::-1], 5, axis=1)


def grey(value):
    return np.full((32, 40, 3), value, np.uint8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({}, r"observation\['images'\]: got \[\], allowed: a mapping of front"),
        ({"front": grey(1), "back": grey(1)}, r"got \['back', 'front'\]"),
        ([], "got 'list'"),
        ({"front": grey(1)}, r"images\['front'\]: shape: got \(32, 40, 3\), allowed: \(2, 32, 40, 3\)"),
        ({"front": np.zeros((2, 32, 40, 3))}, r"images\['front'\]: type: got 'float64', allowed: uint8"),
    ],
)
def test_bad_images_are_named(images, message):
    observation = {"state": np.zeros((2, 3), np.float32), "task": 0, "images": images}
    with pytest.raises(ValueError, match=message):
        Policy(brightness, ABOUT).infer(observation)


def test_chunks_keep_the_images_of_steps_before():
    chunker = ActionChunker(Policy(brightness, ABOUT), mode="receding_horizon", execute=1)
    state = np.zeros(3, np.float32)
    said = [chunker({"state": state, "task": 0, "images": {"front": grey(v)}}).tolist() for v in (7, 9, 200)]
    assert said == [[7.0, 7.0], [9.0, 7.0], [200.0, 9.0]]
    with pytest.raises(ValueError, match=r"images\['front'\]: shape"):
        chunker({"state": state, "task": 0, "images": {"front": grey(1)[1:]}})


def png(value):
    stream = io.BytesIO()
    Image.fromarray(grey(value)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def test_server_reads_pictures():
    desk = server.Desk(Policy(brightness, ABOUT), server.Options())
    body = {"request_id": 1, "observation": {"state": [[0, 0, 0]] * 2, "task": "push"}}
    with pytest.raises(ValueError, match="a mapping of front"):
        server._infer(desk, body)
    for images, message in (
        ({"front": "no!"}, r"images\['front'\]: got .*base64"),
        ({"front": [png(1), base64.b64encode(b"none").decode()]}, r"images\['front'\]: .*PNG"),
        ({"front": [3]}, r"images\['front'\]: got 'int'"),
        ({"front": []}, r"images\['front'\]: shapes: got \[\]"),
        ([], "images: got 'list'"),
    ):
        with pytest.raises(ValueError, match=message):
            server._infer(desk, {**body, "observation": {**body["observation"], "images": images}})
    given = {**body["observation"], "images": {"front": [png(3), png(40)]}}
    assert server._infer(desk, {**body, "observation": given})["actions"][0] == [40.0, 3.0]
