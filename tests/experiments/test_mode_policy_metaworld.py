"""Meta-World: its tasks, demonstrations, rollouts and programs; what needs the simulator skips without it."""

import importlib.util
import json

import numpy as np
import pytest
from launching import launch_module
from policies import load

from diffax.data.sentences import embed_sentences
from experiments import modes
from experiments.mode_policy import metaworld, metaworld_arm
from experiments.mode_policy.metaworld_tasks import MT10, SENTENCES, task_names
from experiments.mode_policy.simulators import Outcome

simulated = pytest.mark.skipif(
    importlib.util.find_spec("metaworld") is None, reason='needs pip install "diffax[metaworld]"'
)


def test_every_task_has_a_sentence_of_its_own():
    assert len(SENTENCES) == len(set(SENTENCES.values())) == 50
    vectors = embed_sentences(list(SENTENCES.values()))
    alike = vectors @ vectors.T - np.eye(50)
    assert alike.max() < 0.95


def test_sets_of_tasks():
    assert task_names("mt10") == MT10
    assert len(task_names("mt50")) == 50
    assert task_names("push,reach") == ("push", "reach")
    with pytest.raises(ValueError, match="tasks: got 'pour'"):
        task_names("push,pour")
    with pytest.raises(ValueError, match="every name once"):
        task_names("push,push")


def test_planted_outcomes_are_measured():
    found = [Outcome("reach", i, True, 30) for i in range(10)] + [
        Outcome("push", i, i < 8, 50) for i in range(10)
    ]
    figures, row = metaworld.measure(found, "dense", 7)
    assert row == {"success": 0.9, "tasks_at_90": 1, "weakest": 0.8, "reach": 1, "push": 0.8,
                   "steps": pytest.approx((300 + 400) / 18)}  # fmt: skip
    by_name = {figure.name: figure for figure in figures}
    assert set(by_name) >= {"dense/success", "dense/success/reach", "dense/success/push"}
    # Wilson's interval of 10 in 10, from its closed form n / (n + z^2)
    assert by_name["dense/success/reach"].low == pytest.approx(10 / (10 + 1.959964**2), abs=1e-6)
    assert by_name["dense/success"].n_fake == 20
    none = metaworld.measure([Outcome("reach", 0, False, 500)], "", 7)[1]
    assert none == {"success": 0, "tasks_at_90": 0, "weakest": 0, "reach": 0}


def test_goals_of_demonstrations_are_not_tried():
    with pytest.raises(ValueError, match="seed: got 42"):
        metaworld.check_seeds(load(file="metaworld_mt10"), 42)


def test_an_absent_simulator_is_one_line(monkeypatch, tmp_path):
    def absent(*_):
        raise ImportError('metaworld is needed here: pip install "diffax[metaworld]"')

    monkeypatch.setattr(metaworld_arm, "optional_import", absent)
    config = load(file="metaworld_mt10", **{"data.file": str(tmp_path / "demos.npz")})
    with pytest.raises(ValueError, match=r'suite: got .metaworld.*pip install "diffax\[metaworld\]"'):
        modes.train(config, str(tmp_path / "run"))
    assert not list(tmp_path.glob("*.npz"))


def test_rollouts_check_their_flags(tmp_path):
    done = launch_module("experiments.mode_policy.rollout", workdir=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: workdir: got")
    assert len(done.stderr.splitlines()) == 1


# -- with the simulator -------------------------------------------------------------------------------------


@simulated
def test_names_are_the_packages():
    import metaworld as package

    assert {f"{name}-v3" for name in SENTENCES} == set(package.ALL_V3_ENVIRONMENTS)
    assert [f"{name}-v3" for name in MT10] == list(package.env_dict.MT10_V3)


@simulated
def test_episodes_follow_from_their_seeds():
    arm = metaworld_arm.Arm("reach")
    first = arm.reset(3)
    steps = [arm.step(arm.expert())[0] for _ in range(5)]
    assert not np.array_equal(arm.reset(4), first)
    np.testing.assert_allclose(arm.reset(3), first, atol=1e-6)
    again = [arm.step(arm.expert())[0] for _ in range(5)]
    np.testing.assert_allclose(again, steps, atol=1e-6)
    other = metaworld_arm.Arm("reach")
    np.testing.assert_allclose(other.reset(3), first, atol=1e-6)
    assert np.abs(first[36:39]).sum() > 0  # the goal is seen


@simulated
def test_a_policy_in_metaworld_from_demonstrations_to_rollouts(tmp_path):
    config = load(file="metaworld_mt10", **{"data.file": str(tmp_path / "demos.npz")})
    assert modes.train(config, str(tmp_path / "run"))
    held = metaworld.demonstrations(config)
    assert (len(held.ends), held.steps["state"].shape[1], held.steps["action"].shape[1]) == (4, 39, 4)
    assert np.abs(held.steps["action"]).max() <= 1
    assert held.task.tolist() == [0, 0, 1, 1]
    assert not (tmp_path / "demos.npz.parts").exists()
    with pytest.raises(ValueError, match="demonstrations' per_task: got 3, allowed: 2"):
        metaworld.demonstrations(
            load(file="metaworld_mt10", **{"data.file": config.data.file, "data.per_task": 3})
        )
    modes.evaluate(config, str(tmp_path / "run"))
    notes = json.loads((tmp_path / "run" / "result.json").read_text())["notes"]
    assert {row["name"] for row in notes["rows"]} == {"model", "regression", "told_another_task"}
    assert notes["versions"]["metaworld"]
    done = launch_module(
        "experiments.mode_policy.rollout",
        workdir=tmp_path / "run",
        policy="expert",
        episodes=1,
        tasks="reach",
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "run" / "rollout" / "result.json").read_text())["figures"]
    assert figures[0]["value"] == 1  # the expert's reach always succeeds
