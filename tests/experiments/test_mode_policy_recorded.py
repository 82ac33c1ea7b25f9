"""Policies from a user's own demonstrations."""

import jax
import numpy as np
import pytest
from policies import load

from diffax.data.episode_files import Demonstrations, write_demonstrations
from diffax.data.episodes import Episodes
from experiments.mode_policy import experiment, recorded
from experiments.mode_policy.method import Recipe


@pytest.fixture
def file(tmp_path):
    """20 episodes of two tasks, in which nothing moves: actions are what is seen, or minus it."""
    random = np.random.default_rng(0)
    task, lengths = np.arange(20) // 10, random.integers(5, 12, 20)
    ends = np.cumsum(lengths)
    hand = np.repeat(random.normal(size=(20, 2)), lengths, axis=0).astype(np.float32)
    sign = np.where(np.repeat(task, lengths) == 0, 1.0, -1.0)[:, None]
    left = np.concatenate([np.arange(n, 0, -1.0) for n in lengths])  # steps of the episode
    steps = {"hand": hand, "lid": hand[:, 0], "left": left, "action": (sign * hand).astype(np.float32)}
    path = tmp_path / "mine.npz"
    write_demonstrations(path, Demonstrations(Episodes(steps, ends, task), ("Go there.", "Go back."), {}))
    return path


def test_normalisers_and_held_out_errors(file, tmp_path):
    """Of a state before its first step: runs are trained with navigation and with images."""
    config = load(file="recorded", **{"data.file": str(file), "data.fields": ("hand", "lid")})
    parts = experiment.make_experiment(config)
    state = parts.begin(tmp_path)(jax.random.key(0))
    names = [figure.name for figure in parts.evaluate(state, tmp_path)["figures"]]
    assert names == ["action_error", "relative_error", "regression/action_error", "regression/relative_error"]
    parts.draw(state, tmp_path)
    training = recorded.open_recorded(config).demonstrations().steps["state"]
    known = state.frozen["normalisers"]["state"]  # held-out episodes have no part in it
    np.testing.assert_allclose(known.shift, training.mean(axis=0), atol=1e-6)
    drawn = np.load(tmp_path / "samples-actions.npz")
    assert drawn["actions"].shape == drawn["recorded"].shape


def test_errors_of_planted_answers(file, monkeypatch):
    """Answers that are off by a constant have it for an error, whatever padding follows the episodes."""
    config = load(
        file="recorded", **{"data.file": str(file), "data.fields": ("hand", "left"), "data.horizon": 4}
    )
    suite = recorded.open_recorded(config)

    def planted(trained, name):
        def act(seeds, seen, task):
            sign = np.where(task == 0, 1.0, -1.0)[:, None, None]
            last = seen["state"][:, -1:]
            padding = np.arange(4) >= last[..., 2]
            return sign * last[..., :2] + np.where(padding, 100.0, 0.25)[:, :, None]

        return act

    monkeypatch.setattr(recorded, "answers", planted)
    recipe = Recipe(None, None, None, (4, 2))
    trained = recorded.Trained(config, {"model": recipe}, {"model": {}}, {})
    found = suite.evaluate(trained, file.parent)
    assert found["figures"][0].value == pytest.approx(0.25, abs=1e-6)


def test_fields_are_put_together(file):
    config = load(file="recorded", **{"data.file": str(file), "data.fields": ("lid", "hand")})
    suite = recorded.open_recorded(config)
    assert (suite.facts.widths, suite.facts.tasks) == ((3, 2), ("Go there.", "Go back."))
    steps = suite.demonstrations().steps
    np.testing.assert_array_equal(steps["state"][:, 0], steps["state"][:, 1])


def test_some_episodes_of_every_task_are_held_out(file):
    config = load(file="recorded", **{"data.file": str(file), "data.fields": ("hand",)})
    episodes = recorded.join_fields(recorded.read_demonstrations(file, ("hand",)).episodes, ("hand",))
    training, held_out = recorded.split(episodes, 0.2)
    assert np.bincount(held_out.task).tolist() == [2, 2]
    assert np.bincount(training.task).tolist() == [8, 8]
    rows = {row.tobytes() for row in training.steps["state"]}
    assert not any(row.tobytes() in rows for row in held_out.steps["state"])
    with pytest.raises(ValueError, match=r"holdout: got 0\.01"):
        recorded.split(episodes, 0.01)
    with pytest.raises(ValueError, match="holdout: got 1"):
        recorded.split(episodes, 1)
    with pytest.raises(ValueError, match="eyes"):
        recorded.open_recorded(
            load(file="recorded", **{"data.file": config.data.file, "data.fields": ("eyes",)})
        )
