"""Episodes, windows over them, normalisers, and sentences as vectors."""

import numpy as np
import pytest

from diffax.data import episodes as eps
from diffax.data.sentences import embed_sentences
from experiments.mode_policy import navigation


def counted(lengths):
    """Episodes whose states and actions say where they are from."""
    total = sum(lengths)
    steps = {
        "state": np.arange(total, dtype=np.float32)[:, None],
        "action": 100 + np.arange(total, dtype=np.float32)[:, None],
    }
    return eps.Episodes(steps, np.cumsum(lengths), np.arange(len(lengths)))


def test_windows_never_cross_an_episode():
    windows = eps.Windows(counted([3, 1, 5]), horizon=4, history=2)
    assert len(windows) == 9
    ends, starts = [3, 3, 3, 4, 9, 9, 9, 9, 9], [0, 0, 0, 3, 4, 4, 4, 4, 4]
    for i in range(9):
        item = windows[i]
        expected = [max(i - 1, starts[i]), i]
        np.testing.assert_array_equal(item["state"][:, 0], expected)
        real = [j < ends[i] for j in range(i, i + 4)]
        np.testing.assert_array_equal(item["mask"], np.asarray(real, np.float32))
        actions = [100 + min(j, ends[i] - 1) for j in range(i, i + 4)]
        np.testing.assert_array_equal(item["action"][:, 0], actions)
        assert item["task"] == [0, 0, 0, 1, 2, 2, 2, 2, 2][i]
    assert windows.spec.shapes["action"] == (4, 1)


def test_joined_and_taken_episodes():
    parts = [counted([2, 3]), counted([4])]
    both = eps.join(parts)
    np.testing.assert_array_equal(both.ends, [2, 5, 9])
    np.testing.assert_array_equal(both.task, [0, 1, 0])
    some = eps.take(both, np.asarray([2, 0]))
    np.testing.assert_array_equal(some.ends, [4, 6])
    np.testing.assert_array_equal(some.steps["state"][:, 0], [0, 1, 2, 3, 0, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e._replace(ends=np.asarray([3, 4, 8])), r"rows: got .*allowed: 8"),
        (lambda e: e._replace(ends=np.asarray([], int)), "ends: got 0, allowed: one episode"),
        (lambda e: e._replace(ends=np.asarray([3, 3, 9])), "demo.npz: episode 1: got 0, allowed: 2 steps"),
        (lambda e: e._replace(ends=np.asarray([3, 4, 9])), "demo.npz: episode 1: got 1, allowed: 2 steps"),
        (lambda e: e._replace(task=e.task[:2]), "task: got 2, allowed: 3 episodes"),
        (lambda e: e._replace(steps={"state": e.steps["state"]}), "fields with 'action'"),
    ],
)
def test_episodes_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        eps.check_episodes(change(counted([3, 2, 4])), "demo.npz", shortest=2)


def test_numbers_that_are_not_finite_are_named():
    bad = counted([3, 2, 4])
    bad.steps["state"][4] = np.nan
    with pytest.raises(ValueError, match=r"episodes\['state'\]: episode 1: got 'NaN or infinity'"):
        eps.check_episodes(bad)


@pytest.mark.parametrize("kind", eps.NORMALISERS)
def test_normalisers_come_back(kind):
    values = np.random.default_rng(0).normal([0, 5, -300], [1e-3, 20, 7], (1000, 3)).astype(np.float32)
    values = np.concatenate([values, np.full((1000, 1), 4.0, np.float32)], axis=1)
    fitted = eps.fit_normaliser(values, kind)
    there = fitted(values)
    np.testing.assert_allclose(fitted.undo(there), values, rtol=1e-6, atol=1e-6 * 300)
    assert np.isfinite(there).all()
    if kind == "mean_std":
        np.testing.assert_allclose(there.std(axis=0), [1, 1, 1, 0], atol=1e-3)
    if kind == "min_max":
        np.testing.assert_allclose(np.ptp(there, axis=0), [2, 2, 2, 0], atol=1e-3)
    if kind == "quantiles":
        np.testing.assert_allclose((np.abs(there[:, :3]) > 1).mean(axis=0), 0.02, atol=2e-3)


def test_unknown_normaliser():
    with pytest.raises(ValueError, match="normaliser: got 'std', allowed: one of mean_std"):
        eps.fit_normaliser(np.zeros((3, 2)), "std")


def test_sentences_have_fixed_distinct_vectors():
    sentences = [navigation.sentence(task) for task in range(navigation.TASKS)]
    found = embed_sentences(sentences)
    assert found.shape == (8, 512)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    alike = found @ found.T
    assert np.max(alike - 2 * np.eye(8)) < 0.97
    np.testing.assert_array_equal(found[0], embed_sentences(["  drive AROUND the disc to the east"])[0])
    same, near, far = (
        embed_sentences(["Open the drawer", "open a drawer", "push the puck"])
        @ embed_sentences(["open the drawer"])[0]
    )
    assert same > near > far
    with pytest.raises(ValueError, match=r"sentence: got '\.\.\.', allowed: words"):
        embed_sentences(["..."])
