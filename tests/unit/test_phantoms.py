"""The procedural heads: what is known of each, and that it is what is shown."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax.data import phantoms, reports
from diffax.data.phantoms import phantom2d, phantom3d, phantom_key, render


@pytest.fixture(scope="module")
def heads():
    return {k: np.asarray(v) for k, v in phantom2d(jax.random.key(3), 48, 32).items()}


def test_what_is_in_it(heads):
    for name in ("A", "B", "A0", "B0", "mask"):
        assert heads[name].shape == (48, 32, 32, 1), name
    assert heads["annotators"].shape == (48, 32, 32, phantoms.ANNOTATORS)
    assert heads["tissue"].shape == (48, 32, 32)
    assert heads["tissue"].max() == len(phantoms.TISSUES) - 1
    for name in ("A", "B"):
        assert np.abs(heads[name]).max() <= 1


def test_twins_differ_in_the_lesion_alone(heads):
    """Anatomy and noise are shared: away from the lesion's soft edge not a bit differs."""
    for name in ("A", "B"):
        change = np.abs(heads[name] - heads[name + "0"])[..., 0]
        assert (change[heads["label"] == 0] == 0).all()
        inside = heads["mask"][..., 0] > 0
        assert np.median(change[inside]) > 0.05
        near = np.stack([np.asarray(m) for m in heads["annotators"].max(-1)]) > 0
        wide = np.stack([grown(m | n, 3) for m, n in zip(inside, near, strict=True)])
        assert change[~wide].max() < 0.05 * change.max()


def grown(mask, by):
    """The mask and all pixels up to so many steps from it."""
    for _ in range(by):
        mask = mask | np.roll(mask, 1, 0) | np.roll(mask, -1, 0) | np.roll(mask, 1, 1) | np.roll(mask, -1, 1)
    return mask


def test_lesions_have_the_size_that_is_said(heads):
    """Of an ellipse, pi r^2, in pixels of 2 / size; and they lie in the brain."""
    ill = heads["label"] > 0
    area = heads["mask"][ill].sum((1, 2, 3)) * (2 / 32) ** 2
    assert np.corrcoef(area, heads["radius"][ill] ** 2)[0, 1] > 0.95
    assert abs(np.mean(area / (np.pi * heads["radius"][ill] ** 2)) - 1) < 0.1
    assert (heads["mask"][~ill] == 0).all()
    assert (heads["radius"][~ill] == 0).all()


def test_annotators_surround_the_truth(heads):
    ill = heads["label"] > 0
    sizes = heads["annotators"][ill].sum((1, 2)) / heads["mask"][ill].sum((1, 2))
    assert 0.8 < sizes.mean() < 1.4
    assert np.std(heads["annotators"][ill].sum((1, 2)), axis=1).mean() > 1
    agreed = heads["annotators"][ill].mean(-1)[..., None] > 0.5
    assert (agreed * heads["mask"][ill]).sum() / heads["mask"][ill].sum() > 0.8


@pytest.fixture(scope="module")
def fine():
    """Heads with lesions, in pixels finer than the skull is thick."""
    return {k: np.asarray(v) for k, v in phantom2d(jax.random.key(3), 8, 96, 1.0, noise=0.0).items()}


def test_intensities_are_the_tissues_own(fine):
    """White matter and the skull show the greys that the tables give, up to each head's own shade."""
    heads = fine
    white, skull = phantoms.TISSUES.index("white matter"), phantoms.TISSUES.index("skull")
    grey = {name: (heads[name][..., 0] + 1) / 2 for name in "AB"}
    for tissue in (white, skull):
        for column, name in enumerate("AB"):
            found = np.median(grey[name][heads["tissue"] == tissue])
            assert abs(found - phantoms.GREYS[tissue - 1][column]) < 0.05, (tissue, name)


def test_lesions_are_not_found_by_a_threshold(fine):
    """In B the skull is brighter than most lesions."""
    heads = fine
    skull = heads["tissue"] == phantoms.TISSUES.index("skull")
    lesion = heads["mask"][..., 0] > 0
    assert np.quantile(heads["B"][..., 0][skull], 0.9) > np.quantile(heads["B"][..., 0][lesion], 0.9)


def test_every_number_gives_the_same_head(heads):
    """Alone or in a batch, whatever its size in pixels and whatever the chance of a lesion."""
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(3)))(jnp.arange(48))
    alone = render(keys[5:6], 32)
    np.testing.assert_allclose(alone["A"][0], heads["A"][5], atol=1e-6)
    finer = phantom2d(jax.random.key(3), 8, 96, 1.0, noise=0.0)
    coarse = np.asarray(finer["A0"]).reshape(8, 32, 3, 32, 3, 1).mean((2, 4))
    clean = render(keys[:8], 32, noise=0.0)["A0"]
    assert np.abs(coarse - np.asarray(clean)).mean() < 0.04  # edges are as soft as pixels are wide
    ill = render(keys[:8], 32, lesion_prob=1.0)
    np.testing.assert_allclose(ill["A0"], heads["A0"][:8], atol=1e-6)
    assert (np.asarray(ill["label"]) == 1).all()


def test_the_middle_of_a_volume_is_the_slice():
    """Between the two middle planes of an even number lies z = 0."""
    flat = phantom2d(jax.random.key(5), 2, 24, noise=0.0)
    deep = phantom3d(jax.random.key(5), 2, 24, noise=0.0)
    assert deep["A"].shape == (2, 24, 24, 24, 1)
    middle = np.asarray(deep["A0"])[:, 11:13].mean(1)
    assert np.abs(middle - np.asarray(flat["A0"])).mean() < 0.04
    assert np.abs(np.asarray(deep["A0"])[:, 0]).mean() > 0.9  # above the head there is air


def test_noise_has_the_strength_that_is_asked_for():
    keys = phantom_key(jnp.arange(64))
    clean, noisy = (np.asarray(render(keys, 32, noise=s)["B"]) for s in (0.0, 0.1))
    inside = np.abs(clean) < 0.4
    assert abs((noisy - clean)[inside].std() - 0.2) < 0.01


def test_bad_arguments():
    for call, words in (
        (lambda: phantom2d(jax.random.key(0), 0), "n: got 0"),
        (lambda: phantom2d(jax.random.key(0), 1, 4), "size: got 4"),
        (lambda: render(phantom_key(jnp.arange(1)), 16, 4), "dims: got 4"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_reports_say_the_facts(heads):
    """What is written is read as the vector that training shows, for every head."""
    facts = np.asarray(phantoms.facts(heads))
    read = [reports.read_report(reports.write_report(f)) for f in facts]
    np.testing.assert_array_equal(np.stack(read), reports.report_vectors(jnp.asarray(facts)))
    assert reports.write_report((True, True, False, False)) == "small lesion on the left, normal ventricles"


def test_parts_of_reports():
    facts = jnp.array([[True, True, False, True], [False, False, False, True]])
    words = dict(zip(reports.WORDS, range(len(reports.WORDS)), strict=True))
    nothing = np.asarray(reports.report_vectors(facts, jnp.zeros((2, 4), bool)))
    assert (nothing == 0).all()
    side = np.asarray(reports.report_vectors(facts, jnp.array([[True, True, False, False]] * 2)))
    np.testing.assert_array_equal(side[0], reports.read_report("lesion on the left"))
    np.testing.assert_array_equal(side[1], reports.read_report("no lesion"))
    assert side[:, words["enlarged"]].sum() == 0
    np.testing.assert_array_equal(
        reports.read_report("Enlarged ventricles."), np.eye(8, dtype=np.float32)[words["enlarged"]]
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a purple lesion", "purple"),
        ("left and right lesion", "one of left and right"),
        ("no large lesion", "no side or size"),
    ],
)
def test_reports_that_cannot_be(text, words):
    with pytest.raises(ValueError, match=words):
        reports.read_report(text)
