"""Episodes in processes, on a toy simulator: what an episode is does not depend on where it runs."""

import numpy as np
import pytest
from toy_simulator import Dying, Point

from experiments.mode_policy.simulators import Protocols, episode_seed, run_episodes

PROTOCOL = Protocols(steps=40, execute=4, history=2)


def wander(seeds, seen, task):
    """Towards the goal, with draws that come from the seeds alone."""
    draws = np.stack([np.random.default_rng(int(seed)).normal(size=(6, 2)) for seed in seeds])
    way = seen[:, -1, 2:] - seen[:, -1, :2]
    return np.clip(way[:, None] + 0.5 * draws, -1, 1)


def brief(found):
    return [(o.task, o.index, o.success, o.steps) for o in found]


@pytest.fixture(scope="module")
def alone():
    return run_episodes(wander, Point, ["east", "north", "west"], 3, 5, PROTOCOL, processes=1)


def test_outcomes_come_in_order(alone):
    tasks = ("east", "north", "west")
    assert [(o.task, o.index) for o in alone] == [(task, index) for task in tasks for index in range(3)]
    assert all(o.success and 5 < o.steps < 40 for o in alone)


def test_episodes_do_not_depend_on_processes_or_company(alone):
    spread = run_episodes(wander, Point, ["east", "north", "west"], 3, 5, PROTOCOL, processes=2)
    assert brief(spread) == brief(alone)
    single = run_episodes(wander, Point, ["north"], 3, 5, PROTOCOL, numbers=[1], processes=2)
    assert brief(single) == brief(alone)[3:6]
    other = run_episodes(wander, Point, ["north"], 3, 6, PROTOCOL, numbers=[1], processes=1)
    assert brief(other) != brief(single)


def test_policies_see_the_past_and_answer_once_a_chunk():
    calls = []

    def still(seeds, seen, task):
        calls.append((seeds.copy(), seen.copy(), task.copy()))
        return np.zeros((len(seeds), 6, 2))

    found = run_episodes(still, Point, ["west"], 1, 5, PROTOCOL, numbers=[7], processes=1)
    assert brief(found) == [("west", 0, False, 40)]
    assert len(calls) == 10  # of 40 steps, 4 of each answer
    seeds, seen, task = (np.concatenate(parts) for parts in zip(*calls, strict=True))
    assert seen.shape == (10, 2, 4)
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(seen[0, 0], seen[0, 1])  # before the first stands the first
    assert len(set(seeds.tolist())) == 10
    assert set(task.tolist()) == {7}


def test_history_holds_neighbouring_steps():
    seen = []

    def east(seeds, now, task):
        seen.append(now)
        return np.tile([0.5, 0.0], (1, 6, 1))

    run_episodes(east, Point, ["west"], 1, 5, PROTOCOL._replace(steps=8), processes=1)
    np.testing.assert_allclose(seen[1][0, 1, 0] - seen[1][0, 0, 0], 0.05, atol=1e-6)
    np.testing.assert_allclose(seen[1][0, 1, 0] - seen[0][0, 1, 0], 0.2, atol=1e-6)


def test_experts_of_simulators_and_films():
    found = run_episodes(None, Point, ["east"], 2, 5, PROTOCOL._replace(film=1, every=2), processes=1)
    assert all(o.success for o in found)
    assert len(found[1].frames) == 0
    frames = found[0].frames
    assert abs(len(frames) - found[0].steps / 2) <= 2
    assert frames[0].mean() < frames[-1].mean()  # it moves east, and the pictures with it


@pytest.mark.parametrize(
    ("make", "task", "error", "message"),
    [
        (Point, "nowhere", ValueError, "task: got 'nowhere'"),
        (Dying, "east", OSError, "a simulator's process ended"),
    ],
)
def test_faults_of_simulators_reach_the_caller(make, task, error, message):
    with pytest.raises(error, match=message):
        run_episodes(wander, make, [task], 1, 5, PROTOCOL, processes=1)


def test_seeds_of_episodes_differ():
    asked = [(s, t, i) for s in range(3) for t in ("push", "push-back", "reach", "sweep") for i in range(20)]
    assert len({episode_seed(*each) for each in asked}) == len(asked)
    assert all(0 <= episode_seed(*each) < 2**32 for each in asked)
