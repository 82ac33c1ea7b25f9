"""Policies in use: what they accept, chunks of actions, a run's folder, an exported file."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launching import digests, launch
from policies import load

from experiments import modes
from experiments.mode_policy import experiment, exporting, loading, method, navigation
from experiments.mode_policy.policy import About, ActionChunker, Policy, ensemble
from experiments.workdir import read_config

ABOUT = About(("reach", "push"), 1, 3, 5, 2)


class Stub:
    """Actions that say when, of what and by which draw they were made; it counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, seeds, seen, task):
        self.calls += 1
        steps = np.arange(5.0)[None, :, None] + np.zeros((len(seeds), 1, 2))
        return 100.0 * seen["state"][:, -1:, :1] + steps + 1e-3 * (np.asarray(seeds) % 97)[:, None, None]


def observe(time=0.0, task="push"):
    return {"state": np.array([time, 0, 0], np.float32), "task": task}


# -- what is accepted ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ({"task": 0}, r"observation: got \['task'\], allowed: 'state' and 'task'"),
        ({"state": np.zeros(3, np.float32)}, "observation: got .*, allowed: 'state' and 'task'"),
        ({"state": np.zeros(4, np.float32), "task": 0}, r"state: shape: got \(4,\)"),
        ({"state": np.zeros((2, 3), np.float32), "task": 0}, r"state: shape: got \(2, 3\)"),
        ({"state": np.zeros(3), "task": 0}, "state: type: got 'float64', allowed: float32"),
        ({"state": np.array([0, np.nan, 0], np.float32), "task": 0}, "state: got 'NaN or infinity'"),
        ({"state": np.zeros(3, np.float32), "task": "dance"}, "task: got 'dance'"),
        ({"state": np.zeros(3, np.float32), "task": 2}, "task: got 2, allowed: 0 .. 1"),
        ({"state": np.zeros(3, np.float32), "task": True}, "task: got True"),
    ],
)
def test_bad_observations_are_named(observation, message):
    stub = Stub()
    with pytest.raises(ValueError, match=message):
        Policy(stub, ABOUT).infer(observation)
    assert stub.calls == 0


def test_batches_are_checked():
    some = Policy(Stub(), ABOUT)
    with pytest.raises(ValueError, match="observations: got 0, allowed: 1 to"):
        some.infer_batch([])
    with pytest.raises(ValueError, match="seeds: got 1, allowed: 2"):
        some.infer_batch([observe()] * 2, [1])
    with pytest.raises(ValueError, match="seed: got -1"):
        some.reset(-1)


def test_seeds_make_answers_repeatable():
    some = Policy(Stub(), ABOUT)
    first, second = some.infer(observe()).actions, some.infer(observe()).actions
    assert not np.array_equal(first, second)
    some.reset()
    np.testing.assert_array_equal(some.infer(observe()).actions, first)
    some.reset(1)
    assert not np.array_equal(some.infer(observe()).actions, first)
    batch = some.infer_batch([observe(1), observe(2), observe(3)], [5, 6, 7]).actions
    np.testing.assert_array_equal(some.infer_batch([observe(2)], [6]).actions[0], batch[1])


# -- chunks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "execute", "calls"), [("open_loop", None, 4), ("receding_horizon", 3, 6)])
def test_chunks_are_asked_for_when_they_are_used_up(mode, execute, calls):
    stub = Stub()
    chunker = ActionChunker(Policy(stub, ABOUT), mode, execute)
    done = [chunker(observe(time)) for time in range(16)]
    assert stub.calls == calls  # ceil(16 / 5) and ceil(16 / 3)
    every = execute or 5
    expected = [100.0 * (t - t % every) + t % every for t in range(16)]
    np.testing.assert_allclose([action[0] for action in done], expected, atol=0.1)


def test_a_new_episode_forgets_the_old_one():
    stub = Stub()
    chunker = ActionChunker(Policy(stub, ABOUT), "open_loop")
    first = chunker(observe(1))
    chunker.reset()
    np.testing.assert_array_equal(chunker(observe(1)), first)
    assert stub.calls == 2


def test_ensembles_average_what_chunks_say_of_one_time():
    """Chunks that agree on every time give it back, whatever the weights; those that differ, their mean."""
    truth = np.random.default_rng(0).normal(size=(20, 2))
    agree = [truth[start : start + 5] for start in range(4)]
    np.testing.assert_allclose(ensemble(agree, 0.3), truth[3], atol=1e-12)
    differ = [np.full((5, 1), value) for value in (1.0, 2.0, 6.0)]
    np.testing.assert_allclose(ensemble(differ, 0.0), 3.0)
    # the oldest weighs most; as the decay grows only it counts
    np.testing.assert_allclose(ensemble(differ, 50.0), 1.0, atol=1e-12)
    stub = Stub()
    chunker = ActionChunker(Policy(stub, ABOUT), "temporal_ensemble", decay=0.0)
    done = [chunker(observe(0))[0] for _ in range(8)]
    assert stub.calls == 8
    np.testing.assert_allclose(done, [0, 0.5, 1, 1.5, 2, 2, 2, 2], atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "closed_loop"}, "mode: got 'closed_loop'"),
        ({"execute": 6}, "execute: got 6, allowed: 1 .. 5"),
        ({"execute": 0}, "execute: got 0"),
        ({"mode": "open_loop", "execute": 3}, "execute: got 3, allowed: 5, or none"),
        ({"decay": -1}, "decay: got -1"),
    ],
)
def test_chunkers_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ActionChunker(Policy(Stub(), ABOUT), **options)


def test_policies_with_a_past_get_it():
    seen = []

    def run(seeds, state, task):
        seen.append(state["state"][0, :, 0])
        return np.zeros((len(seeds), 5, 2))

    chunker = ActionChunker(Policy(run, ABOUT._replace(history=3)), "receding_horizon", 1)
    for time in range(4):
        chunker(observe(time))
    np.testing.assert_array_equal(seen, [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]])


# -- a run's folder and its exported file -------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A smoke run of navigation, exported."""
    path = tmp_path_factory.mktemp("policy")
    config = load(goal="sentence", **{"loss.drop_goal": 0.2})
    assert modes.train(config, str(path))
    modes.export(config, str(path))
    return path


@pytest.mark.slow
def test_a_broken_run_ends_in_the_same_bits(folder, tmp_path):
    """From its first checkpoint on, in another folder; another seed ends elsewhere."""
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(folder / name, tmp_path / name)
    shutil.copytree(folder / "checkpoints" / "3", tmp_path / "checkpoints" / "3")
    config = read_config(folder)
    assert modes.train(config, str(tmp_path))
    assert digests(tmp_path)[6] == digests(folder)[6]
    assert digests(tmp_path)[3] != digests(tmp_path)[6]


def test_a_run_is_evaluated(folder):
    """Sentences for goals; the checkpoint holds what normalises actions."""
    config = read_config(folder)
    modes.evaluate(config, str(folder))
    rows = json.loads((folder / "result.json").read_text())["notes"]["rows"]
    groups = ["spread_0", "spread_0.05", "regression/spread_0", "regression/spread_0.05"]
    assert [row["name"] for row in rows] == groups
    assert (folder / "ways.png").stat().st_size > 5000
    trained, _ = loading.load_trained(folder)
    actions = navigation.demonstrations(config.seed, config.data.per_task).steps["action"]
    np.testing.assert_allclose(trained.normalisers["action"].scale, np.ptp(actions, axis=0) / 2, rtol=1e-6)


STATES = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


def test_policies_answer_alike_alone_in_batches_and_from_the_file(folder):
    ours = loading.load_policy(folder)
    assert ours.about == About(tuple(f"goal-{i}" for i in range(8)), 1, 2, 8, 2)
    observations = [{"state": state, "task": index} for index, state in enumerate(STATES)]
    batch = ours.infer_batch(observations, [4, 5, 6]).actions
    assert batch.shape == (3, 8, 2)
    slack = 1e-5 * np.abs(batch).max()
    one = ours.infer_batch([{"state": STATES[1], "task": "goal-1"}], [5]).actions[0]
    np.testing.assert_allclose(one, batch[1], atol=slack)
    theirs = exporting.load_exported_policy(folder / "export" / exporting.FILE)
    assert theirs.about == ours.about
    np.testing.assert_allclose(theirs.infer_batch(observations, [4, 5, 6]).actions, batch, atol=slack)
    again = ours.infer_batch(observations, [4, 5, 6]).actions
    np.testing.assert_array_equal(again, batch)


def test_chosen_experts_answer_as_all_of_them(folder):
    trained, _ = loading.load_trained(folder)
    recipe = trained.recipes["model"]
    act = jax.jit(method.make_act(trained.config, recipe))
    keys = jax.vmap(jax.random.key)(jnp.arange(3, dtype=jnp.uint32))
    given = trained.normalisers, keys, {"state": jnp.asarray(STATES)[:, None]}, jnp.arange(3)
    expected = act(trained.nets["model"], *given)
    cache = method.prepare(trained.config, recipe, trained.nets["model"])
    assert type(cache).__name__ == "ExpertCache"
    np.testing.assert_allclose(act(cache, *given), expected, atol=1e-5 * float(jnp.abs(expected).max()))


def test_damaged_exports_and_strange_folders_are_refused(folder, tmp_path):
    file = tmp_path / "policy.jaxexport"
    original = folder / "export" / exporting.FILE
    file.write_bytes(original.read_bytes()[:-7])
    (tmp_path / "policy.jaxexport.json").write_text(original.with_name(f"{original.name}.json").read_text())
    with pytest.raises(ValueError, match="sha256: got"):
        exporting.load_exported_policy(file)
    with pytest.raises(ValueError, match="workdir: got"):
        loading.load_policy(tmp_path)
    with pytest.raises(ValueError, match="policy: got 'dense'"):
        loading.load_policy(folder, "dense")


def test_vectors_of_another_encoder(tmp_path):
    facts = experiment.open_suite(load()).facts
    vectors = {name: np.random.default_rng(i).normal(size=6) for i, name in enumerate(facts.tasks)}
    np.savez(tmp_path / "clip.npz", **vectors)
    config = load(goal=str(tmp_path / "clip.npz"))
    np.testing.assert_allclose(experiment.make_goals(config, facts)[2], vectors["goal-2"], rtol=1e-6)
    np.savez(tmp_path / "few.npz", **{k: v for k, v in vectors.items() if k != "goal-5"})
    np.savez(tmp_path / "short.npz", **{**vectors, "goal-3": np.zeros(5)})
    np.savez(tmp_path / "nan.npz", **{**vectors, "goal-3": np.full(6, np.nan)})
    for name, message in (
        ("few", "one named 'goal-5'"),
        ("short", "goal-3: shape"),
        ("nan", "goal-3: got 'NaN'"),
    ):
        with pytest.raises(ValueError, match=message):
            experiment.make_goals(load(goal=str(tmp_path / f"{name}.npz")), facts)


def test_the_exported_file_says_what_it_is(folder):
    about = json.loads((folder / "export" / f"{exporting.FILE}.json").read_text())
    assert about["arguments"]["state"].startswith("float32[b,1,2]")
    assert about["sample_shape"] == [8, 2]
    assert about["about"]["sampler"]["steps"] == load().sample.steps
    assert set(About._fields) <= set(about["about"])


def test_bad_configurations_are_one_line_and_status_2(tmp_path):
    done = launch(tmp_path, "--config.model.top_k=9", config="configs/mode_policy/navigation.py:smoke")
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: top_k: got 9, allowed: 1 to 4, the number of experts"]
    assert not list(tmp_path.iterdir())
