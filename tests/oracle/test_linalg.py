"""Decompositions against least squares, tails of singular values, brute force and numerical optimisation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from diffax import linalg
from diffax.linalg.nystrom import mean_diagonal
from diffax.linalg.svd import square_root

RANDOM = np.random.default_rng(0)


def inputs(n=200, size=7, seed=1):
    """Rows that are correlated and have a mean."""
    random = np.random.default_rng(seed)
    return random.normal(size=(n, size)) @ random.normal(size=(size, size)) + random.normal(size=size)


def second(x):
    return x.T @ x / len(x)


# -- moments ------------------------------------------------------------------------------------------------


def test_moments_come_in_batches():
    x = inputs().astype(np.float32)
    for full in (True, False):
        found = linalg.Moments(7, full)
        for part in np.split(x, [3, 50, 51]):
            found.add(jnp.asarray(part).reshape(1, -1, 7))
        expected = second(x.astype(np.float64))
        np.testing.assert_allclose(
            found.second, expected if full else np.diag(expected), rtol=1e-5, atol=1e-5
        )
        np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-5, atol=1e-6)
        assert found.count == 200


def test_moments_are_checked():
    with pytest.raises(ValueError, match=r"x\.shape: got \(3, 6\)"):
        linalg.Moments(7).add(np.zeros((3, 6), np.float32))
    found = linalg.Moments(2)
    found.add(np.array([[np.nan, 0]], np.float32))
    with pytest.raises(ValueError, match="x: got 'NaN"):
        _ = found.second


def test_moments_of_groups():
    x = inputs()[:, :6].astype(np.float32)
    found = linalg.Moments(3, groups=2)
    found.add(x)
    whole = second(x.astype(np.float64))
    np.testing.assert_allclose(found.second, [whole[:3, :3], whole[3:, 3:]], rtol=1e-5, atol=1e-5)


def test_many_batches_lose_nothing():
    """A thousand batches of ones and one of 1e-4: float32 alone forgets it."""
    found = linalg.Moments(1)
    found.add(np.full((1, 1), 3000.0, np.float32))
    for _ in range(1000):
        found.add(np.full((1, 1), 0.3, np.float32))
    np.testing.assert_allclose(
        found.second * found.count, 9e6 + 1000 * np.float64(np.float32(0.3)) ** 2, rtol=1e-9
    )


# -- hidden units -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_reconstruction_is_the_least_squares_solution(ridge):
    """With the ridge as rows of its own."""
    z, a = inputs(), RANDOM.normal(size=(7, 5))
    chosen = np.array([0, 2, 5])
    c = second(z)
    weight = np.sqrt(ridge * mean_diagonal(c))
    left = np.vstack([z[:, chosen] / np.sqrt(len(z)), weight * np.eye(3)])
    right = np.vstack([z @ a / np.sqrt(len(z)), weight * a[chosen]])
    expected = np.linalg.lstsq(left, right, rcond=None)[0]
    np.testing.assert_allclose(linalg.reconstruct(c, chosen, a, ridge), expected, rtol=1e-8)


def test_a_bias_is_the_least_squares_intercept_and_no_worse():
    z, a, chosen = inputs(), RANDOM.normal(size=(7, 5)), np.array([1, 3])
    c, mean = second(z), z.mean(axis=0)
    found, shift = linalg.reconstruct_affine(c, mean, chosen, a, 0.0)
    left = np.hstack([z[:, chosen], np.ones((len(z), 1))])
    expected = np.linalg.lstsq(left, z @ a, rcond=None)[0]
    np.testing.assert_allclose(np.vstack([found, shift]), expected, rtol=1e-7)
    plain = linalg.reconstruct(c, chosen, a, 0.0)
    errors = [np.mean((z @ a - guess) ** 2) for guess in (z[:, chosen] @ found + shift, z[:, chosen] @ plain)]
    assert errors[0] < errors[1]


def test_units_that_never_fire_or_repeat_are_removed_without_a_change():
    z, a = inputs(), RANDOM.normal(size=(7, 5))
    z[:, 4] = 0
    z[:, 6] = z[:, 1]
    c = second(z)
    chosen = linalg.choose(linalg.leverage_scores(c, 1e-9), 5)
    assert 4 not in chosen
    assert len({1, 6} & set(chosen.tolist())) == 1
    found = linalg.reconstruct(c, chosen, a, 1e-12)
    np.testing.assert_allclose(z[:, chosen] @ found, z @ a, atol=1e-6)
    whole = np.array([1, 4, 6])  # singular: the pseudo-inverse
    np.testing.assert_allclose(z[:, whole] @ linalg.reconstruct(c, whole, a[:, :1] * 0, 0.0), 0, atol=1e-12)


def test_leverage_lies_between_energy_and_one():
    c = second(inputs())
    energy = np.diag(c)
    large = linalg.leverage_scores(c, 1e6)
    np.testing.assert_allclose(large / large.sum(), energy / energy.sum(), rtol=1e-4)
    np.testing.assert_allclose(linalg.leverage_scores(c, 1e-12), 1, atol=1e-8)
    values = np.linalg.eigvalsh(c)
    weight = 0.05 * energy.mean()
    np.testing.assert_allclose(linalg.leverage_scores(c, 0.05).sum(), (values / (values + weight)).sum())


def test_all_units_are_the_matrix_itself():
    a = RANDOM.normal(size=(7, 5))
    assert linalg.reconstruct(second(inputs()), np.arange(7), a).tobytes() == a.tobytes()


# -- queries and keys ---------------------------------------------------------------------------------------


def test_scores_are_what_leaving_a_term_out_costs():
    """For independent queries and keys: the mean square of a term of the product."""
    q, k = inputs(seed=1), inputs(seed=2)
    products = (q[:, None] ** 2 * k[None] ** 2).mean(axis=(0, 1))
    found = linalg.dimension_scores(np.diag(second(q)), np.diag(second(k)))
    np.testing.assert_allclose(found, products, rtol=1e-10)


def test_scores_of_pairs_do_not_depend_on_the_rotation():
    q, k = inputs(size=8, seed=1), inputs(size=8, seed=2)
    turned = []
    for x, seed in ((q, 3), (k, 4)):
        angles = np.random.default_rng(seed).uniform(0, 7, size=(len(x), 4))
        first, other = x[:, :4], x[:, 4:]
        cos, sin = np.cos(angles), np.sin(angles)
        turned.append(np.hstack([first * cos - other * sin, other * cos + first * sin]))
    scores = [linalg.pair_scores(np.diag(second(a)), np.diag(second(b))) for a, b in ((q, k), turned)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-10)


def test_heads_that_share_keys_are_summed():
    queries, keys = RANDOM.uniform(size=(3, 8)), RANDOM.uniform(size=8)
    each = [linalg.pair_scores(one, keys) for one in queries]
    np.testing.assert_allclose(linalg.pair_scores(queries, keys), np.sum(each, axis=0))


def test_choices_are_the_largest_in_order():
    assert linalg.choose(np.array([3.0, 1, 5, 3, 0]), 2).tolist() == [0, 2]
    assert linalg.choose(np.array([3.0, 1, 5, 3, 0]), 3).tolist() == [0, 2, 3]
    with pytest.raises(ValueError, match="count: got 6"):
        linalg.choose(np.zeros(5), 6)


# -- values and outputs -------------------------------------------------------------------------------------


def head(shared=1):
    x = inputs(size=9)
    return x, RANDOM.normal(size=(9, 6)), RANDOM.normal(size=(6, 4 * shared))


def error(x, w, pair):
    return float(np.sum((x @ w - x @ pair[0] @ pair[1]) ** 2))


def test_the_error_is_the_tail_of_singular_values():
    x, w_v, w_o = head(2)
    v = x @ w_v
    tail = np.linalg.svd(v @ w_o, compute_uv=False)
    for rank in (1, 3, 5):
        found = linalg.value_output(second(v), w_v, w_o, rank)
        assert (found[0].shape, found[1].shape) == ((9, rank), (rank, 8))
        np.testing.assert_allclose(error(x, w_v @ w_o, found), np.sum(tail[rank:] ** 2), rtol=1e-8)


def test_the_values_second_moment_is_as_good_as_the_inputs():
    """Through the square root of E[x^T x], d by d, as the paper has it."""
    x, w_v, w_o = head()
    root, inverse = square_root(second(x))
    left, values, right = np.linalg.svd(root @ w_v @ w_o, full_matrices=False)
    expected = inverse @ left[:, :2] * values[:2] @ right[:2]
    found = linalg.value_output(second(x @ w_v), w_v, w_o, 2)
    np.testing.assert_allclose(x @ found[0] @ found[1], x @ expected, atol=1e-8)


def test_no_gradient_descent_finds_better():
    x, w_v, w_o = head()
    target = x @ w_v @ w_o

    def loss(flat):
        a, b = flat[:18].reshape(9, 2), flat[18:].reshape(2, 4)
        rest = x @ a @ b - target
        return np.sum(rest**2), 2 * np.concatenate([(x.T @ rest @ b.T).ravel(), ((x @ a).T @ rest).ravel()])

    found = linalg.value_output(second(x @ w_v), w_v, w_o, 2)
    best = min(
        scipy.optimize.minimize(loss, RANDOM.normal(size=26), jac=True, options={"maxiter": 5000}).fun
        for _ in range(4)
    )
    assert error(x, w_v @ w_o, found) <= best * (1 + 1e-6)


def test_the_joint_optimum_is_never_worse_than_that_of_the_values_alone():
    for seed in range(5):
        random = np.random.default_rng(seed)
        x, w_v, w_o = inputs(size=9, seed=seed), random.normal(size=(9, 6)), random.normal(size=(6, 12))
        c = second(x @ w_v)
        joint, alone = (f(c, w_v, w_o, 3) for f in (linalg.value_output, linalg.output_given_values))
        assert error(x, w_v @ w_o, joint) < error(x, w_v @ w_o, alone)
        vectors = np.linalg.svd(x @ w_v, full_matrices=False)[2][:3]
        np.testing.assert_allclose(alone[0] @ alone[1], w_v @ vectors.T @ vectors @ w_o, atol=1e-8)


def test_values_that_span_less_are_cut_without_a_change():
    x, w_v, w_o = head()
    w_v[:, 3:] = w_v[:, :3] @ RANDOM.normal(size=(3, 3))
    found = linalg.value_output(second(x @ w_v), w_v, w_o, 3)
    np.testing.assert_allclose(x @ found[0] @ found[1], x @ w_v @ w_o, atol=1e-7)
    whole = linalg.value_output(second(x @ w_v), w_v, w_o, 6)
    assert (whole[0] is w_v, whole[1] is w_o) == (True, True)


def test_low_rank_is_best_for_its_inputs():
    x, w = inputs(size=9), RANDOM.normal(size=(9, 5))
    tail = np.linalg.svd(x @ w, compute_uv=False)
    found, plain = linalg.low_rank(second(x), w, 2), linalg.low_rank(np.eye(9), w, 2)
    np.testing.assert_allclose(error(x, w, found), np.sum(tail[2:] ** 2), rtol=1e-8)
    assert error(x, w, found) < error(x, w, plain)
    left, values, right = np.linalg.svd(w, full_matrices=False)
    np.testing.assert_allclose(plain[0] @ plain[1], left[:, :2] * values[:2] @ right[:2], atol=1e-10)


def test_principal_axes_keep_the_most_energy():
    c = second(inputs(size=5))
    axes = linalg.principal_axes(c)
    kept = np.trace(axes[:, :2].T @ c @ axes[:, :2])
    for pair in itertools.combinations(range(5), 2):
        assert kept >= np.trace(c[np.ix_(pair, pair)]) - 1e-9
    np.testing.assert_allclose(axes.T @ axes, np.eye(5), atol=1e-12)


def test_ranks_are_checked():
    x, w_v, w_o = head()
    for rank in (0, 7):
        with pytest.raises(ValueError, match=f"rank: got {rank}, allowed: 1 .. 6"):
            linalg.value_output(second(x @ w_v), w_v, w_o, rank)


def test_nothing_of_it_is_traced():
    """float64 on the host, whatever JAX's own default."""
    assert not jax.config.jax_enable_x64
    assert linalg.low_rank(np.eye(3), np.eye(3), 2)[0].dtype == np.float64
