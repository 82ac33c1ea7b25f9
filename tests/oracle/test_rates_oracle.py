"""Rates of judged items: published tables, hand-worked cases, coverage by simulation."""

import numpy as np
import pytest

from diffax.evaluation.intervals import wilson_interval
from diffax.evaluation.rates import (
    Calibration,
    cluster_bootstrap_interval,
    cohen_kappa,
    corrected_rate,
    holm,
    krippendorff_alpha,
    mcnemar,
)


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [(27, 32, 0.6825, 0.9314), (58, 279, 0.1644, 0.2593), (0, 20, 0, 0.1611), (7, 50, 0.0695, 0.2619)],
)
def test_wilson_s_published_numbers(count, n, low, high):
    found = wilson_interval(count, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert found.low >= 0


# -- clusters -----------------------------------------------------------------------------------------------


def test_clusters_of_copies_are_one_item_each():
    values = np.asarray([0, 1, 1, 0, 1, 0, 0, 0, 1, 0] * 4, float)
    copies = np.repeat(values, 5)
    alone = cluster_bootstrap_interval(values, np.arange(40), seed=1)
    together = cluster_bootstrap_interval(copies, np.repeat(np.arange(40), 5), seed=1)
    assert together == alone
    blind = cluster_bootstrap_interval(copies, np.arange(200), seed=1)
    assert blind.high - blind.low < 0.6 * (alone.high - alone.low)


def test_clusters_interval_covers():
    draw, hits = np.random.default_rng(0), 0
    for seed in range(200):
        chance = draw.beta(2, 3, 60)  # of each cluster; the mean is 0.4
        values = (draw.random((60, 8)) < chance[:, None]).astype(float).ravel()
        found = cluster_bootstrap_interval(values, np.repeat(np.arange(60), 8), resamples=300, seed=seed)
        hits += found.low <= 0.4 <= found.high
    assert 0.89 <= hits / 200 <= 0.985


# -- tests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("worse", "better", "p"), [(0, 0, 1), (5, 5, 1), (0, 5, 2 / 32), (1, 9, 22 / 1024), (9, 1, 22 / 1024)]
)
def test_mcnemar_by_counting_coins(worse, better, p):
    assert mcnemar(worse, better) == pytest.approx(p)


def test_mcnemar_is_scipy_s_binomial_test():
    stats = pytest.importorskip("scipy.stats")
    for worse, better in ((3, 17), (40, 61), (200, 333)):
        expected = stats.binomtest(worse, worse + better).pvalue
        assert mcnemar(worse, better) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_thousands():
    assert 0 < mcnemar(900, 1100) < 1e-4
    assert mcnemar(0, 5000) == 0.0  # below the smallest number


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


# -- a judge that errs --------------------------------------------------------------------------------------


def items(bad, n):
    return np.r_[np.ones(bad), np.zeros(n - bad)], np.arange(n)


def test_a_perfect_judge_corrects_nothing():
    judge = Calibration(5000, 5000, 5000, 5000)
    found = corrected_rate(*items(30, 100), judge, seed=3)
    plain = cluster_bootstrap_interval(*items(30, 100), seed=3)
    assert found.mean == pytest.approx(0.3)
    assert (found.low, found.high) == (
        pytest.approx(plain.low, abs=0.02),
        pytest.approx(plain.high, abs=0.02),
    )


def test_correction_by_hand():
    # Se 0.9, Sp 0.8: of 100 with 40 bad it finds 36 and 12 of the others
    assert corrected_rate(*items(48, 100), Calibration(90, 100, 80, 100)).mean == pytest.approx(0.4)
    assert corrected_rate(*items(5, 100), Calibration(90, 100, 80, 100)).mean == 0  # less than its errors


def test_a_small_calibration_set_widens_the_interval():
    wide = corrected_rate(*items(480, 1000), Calibration(18, 20, 16, 20))
    narrow = corrected_rate(*items(480, 1000), Calibration(1800, 2000, 1600, 2000))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_the_corrected_interval_covers():
    draw, hits = np.random.default_rng(1), 0
    for seed in range(150):
        bad = draw.random(300) < 0.35
        said = np.where(bad, draw.random(300) < 0.85, draw.random(300) < 0.1).astype(float)
        judge = Calibration(int(draw.binomial(80, 0.85)), 80, int(draw.binomial(80, 0.9)), 80)
        found = corrected_rate(said, np.arange(300), judge, resamples=300, seed=seed)
        hits += found.low <= 0.35 <= found.high
    assert hits / 150 >= 0.9


# -- agreement ----------------------------------------------------------------------------------------------


def test_cohen_s_kappa_by_hand():
    first = ["y"] * 25 + ["n"] * 25
    second = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert cohen_kappa("aaaa", "aaaa") == 1
    assert cohen_kappa("abab", "baba") == pytest.approx(-1)


def test_krippendorff_s_own_example():
    """The four observers and twelve units of Krippendorff 2011, whose nominal alpha is 0.743."""
    rows = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    assert krippendorff_alpha(list(zip(*rows, strict=True))) == pytest.approx(0.743, abs=5e-4)


def test_krippendorff_s_limits():
    assert krippendorff_alpha([["a", "a"], ["b", "b"]]) == 1
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) == 1
    draw = np.random.default_rng(0)
    random = krippendorff_alpha(draw.integers(0, 3, (4000, 3)).tolist())
    assert random == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: holm([1.5]), "p_values"),
        (lambda: mcnemar(-1, 2), "worse, better"),
        (lambda: cohen_kappa("a", "ab"), "second: got 2"),
        (lambda: krippendorff_alpha([["a", None]]), "ratings: got 0"),
        (lambda: corrected_rate(*items(1, 9), Calibration(5, 10, 5, 10)), "Se \\+ Sp: got 1.0"),
        (lambda: corrected_rate(*items(1, 9), Calibration(11, 10, 5, 10)), "judge.bad_found: got 11"),
        (lambda: corrected_rate(*items(1, 9), Calibration(5, 10, 0, 0)), "judge.good_passed"),
        (lambda: cluster_bootstrap_interval(np.ones(3), np.arange(3) - 1), "clusters: got -1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
