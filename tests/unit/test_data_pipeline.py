"""The pipeline: one pass is exact, shards are disjoint, a restored state gives the same batches."""

import json
import math
from collections import Counter
from itertools import chain

import numpy as np
import pytest

from diffax.data import ArraySource, epoch, horizontal_flip, pipeline


def _source(n=23):
    """Items whose label is their index."""
    image = np.zeros((n, 2, 3, 1), np.uint8)
    image[:, 0, 0, 0] = np.arange(n) % 256
    return ArraySource(image, np.arange(n))


def _labels(batches):
    return [batch["label"].tolist() for batch in batches]


def _take(pipe, n):
    return [next(pipe) for _ in range(n)]


@pytest.mark.parametrize("shards", [1, 2, 3])
@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("n", [23, 1031])  # either side of the size from which grain shuffles
def test_shards_are_together_exactly_one_pass(shards, threads, n):
    options = {"repeat": False, "drop_remainder": False, "shard_count": shards, "threads": threads}
    parts = [_labels(pipeline(_source(n), 4, 5, shard_index=i, **options)) for i in range(shards)]
    seen = [label for part in parts for batch in part for label in batch]
    assert Counter(seen) == Counter(range(n))
    assert seen != sorted(seen)


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_dropping_the_remainder_gives_all_shards_the_same_steps(shards):
    pipes = [
        pipeline(_source(), 4, 5, shard_index=i, shard_count=shards, repeat=False) for i in range(shards)
    ]
    batches = [_labels(pipe) for pipe in pipes]
    assert {len(part) for part in batches} == {23 // (4 * shards)} == {pipe.steps_per_epoch for pipe in pipes}
    seen = [label for part in batches for batch in part for label in batch]
    assert len(set(seen)) == len(seen)


def test_epochs_differ_and_each_is_a_pass():
    steps = math.ceil(23 / 4)
    labels = _labels(_take(pipeline(_source(), 4, 1, drop_remainder=False), 3 * steps))
    epochs = [list(chain(*labels[i * steps : (i + 1) * steps])) for i in range(3)]
    assert all(sorted(e) == list(range(23)) for e in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_the_remainder_that_is_dropped_changes():
    labels = _labels(_take(pipeline(_source(), 10, 1), 2 * 12))
    dropped = [set(range(23)) - set(labels[2 * e] + labels[2 * e + 1]) for e in range(12)]
    assert all(len(d) == 3 for d in dropped)
    assert len(set().union(*dropped)) > 10


def test_the_order_is_fixed_by_the_seed():
    draws = [_labels(_take(pipeline(_source(), 5, seed), 9)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    # a neighbouring seed must not be the same run, one epoch later
    assert draws[0][4:8] != draws[2][:4]
    assert _labels(pipeline(_source(6), 3, 9, shuffle=False, repeat=False)) == [[0, 1, 2], [3, 4, 5]]


def test_the_shuffle_is_uniform():
    n, rounds = 8, 4000
    pipe = pipeline(_source(n), n, 3)
    first = np.asarray([next(pipe)["label"] for _ in range(rounds)])
    for position in (0, 5):
        expected, counts = rounds / n, np.bincount(first[:, position], minlength=n)
        chi2 = ((counts - expected) ** 2 / expected).sum()
        assert chi2 < 24.3  # the 0.1 % point of chi-squared with 7 degrees of freedom


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("n", [23, 1100])
@pytest.mark.parametrize("step", [0, 1, 4, 11])  # at the start, within, at the end of and beyond an epoch
def test_a_restored_pipeline_gives_exactly_the_next_batches(threads, step, n):
    def make(threads):
        return pipeline(_source(n), n // 4, 2, augment=horizontal_flip(), threads=threads)

    pipe = make(threads)
    _take(pipe, step)
    state = json.loads(json.dumps(pipe.get_state()))
    expected = _take(pipe, 7)
    fresh = make(0)
    _take(fresh, 3)
    fresh.set_state(state)
    assert fresh.get_state() == state
    for a, b in zip(expected, _take(fresh, 7), strict=True):
        np.testing.assert_array_equal(a["label"], b["label"])
        np.testing.assert_array_equal(a["image"], b["image"])


def test_a_restored_single_pass_ends_where_it_would_have():
    pipe = pipeline(_source(), 5, 2, repeat=False, drop_remainder=False)
    _take(pipe, 3)
    fresh = pipeline(_source(), 5, 2, repeat=False, drop_remainder=False)
    fresh.set_state(pipe.get_state())
    assert _labels(fresh) == _labels(pipe)
    with pytest.raises(StopIteration):
        next(fresh)


def _joined(parts):
    """The shards' k-th batches joined in order, for each k; a shard may lack the last one."""
    steps = max(len(part) for part in parts)
    batches = [[part[k] for part in parts if k < len(part)] for k in range(steps)]
    return [{f: np.concatenate([b[f] for b in group]) for f in group[0]} for group in batches]


@pytest.mark.parametrize(("n", "size"), [(55, 20), (1055, 400)])  # either side of where grain shuffles
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_remainder", [True, False])
@pytest.mark.parametrize("shards", [1, 2, 4])
def test_shards_joined_in_order_are_the_batches_of_one_shard(n, size, shuffle, drop_remainder, shards):
    # of the last global batch of two shards the second has a part, of that of four the fourth has none
    repeat = drop_remainder or shards < 4

    def make(index, count):
        options = {"shuffle": shuffle, "drop_remainder": drop_remainder, "augment": horizontal_flip()}
        shard = {"shard_index": index, "shard_count": count, "repeat": repeat}
        return pipeline(_source(n), size // count, 4, **options, **shard)

    def some(pipe):
        return _take(pipe, 3 * pipe.steps_per_epoch) if repeat else list(pipe)

    expected = some(make(0, 1))
    actual = _joined([some(make(i, shards)) for i in range(shards)])
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a["label"], b["label"])
        np.testing.assert_array_equal(a["image"], b["image"])
    if not drop_remainder:
        assert Counter(chain(*_labels(actual[:3]))) == Counter(range(n))


def test_a_state_continues_with_another_number_of_shards():
    def sharded(count):
        options = {"shard_count": count, "augment": horizontal_flip()}
        return [pipeline(_source(), 6 // count, 4, shard_index=i, **options) for i in range(count)]

    whole, halves, thirds = sharded(1), sharded(2), sharded(3)
    _take(whole[0], 5)
    for pipe in halves + thirds:
        pipe.set_state(whole[0].get_state())
    expected = [batch["image"] for batch in _take(whole[0], 6)]
    for pipes in (halves, thirds):
        images = [batch["image"] for batch in _joined([_take(pipe, 6) for pipe in pipes])]
        np.testing.assert_array_equal(images, expected)


def test_flips_are_per_item_half_of_them_and_anew_each_epoch():
    image = np.tile(np.array([[0, 1, 2]], np.uint8), (400, 1, 1))[..., None]
    pipe = pipeline(ArraySource(image, np.arange(400)), 400, 0, augment=[horizontal_flip()])
    flipped = []
    for _ in range(2):
        batch = next(pipe)
        flipped.append(
            {i for i, x in zip(batch["label"].tolist(), batch["image"], strict=True) if x[0, 0, 0] > -1}
        )
        back = np.where(np.isin(batch["label"], list(flipped[-1]))[:, None], batch["image"][:, 0, ::-1, 0], 0)
        assert set(np.unique(back[back.any(1)], axis=0).shape) == {1, 3}
    assert all(150 < len(f) < 250 for f in flipped)
    assert flipped[0] != flipped[1]
    assert (next(pipeline(_source(), 4, 0, augment=horizontal_flip(0.0)))["image"][:, 0, 0, 0] >= -1).all()


def test_epoch_is_one_pass_in_order():
    batches = list(epoch(_source(7), 3))
    assert _labels(batches) == [[0, 1, 2], [3, 4, 5], [6]]
    assert batches[0]["image"].shape == (3, 2, 3, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: got 0, allowed: at least 1"),
        ({"batch_size": 24}, "batch_size: got 24, allowed: at most 23: 1 shards share 23 items"),
        ({"batch_size": 8, "shard_count": 3}, "batch_size: got 8, allowed: at most 7: 3 shards"),
        (
            {"batch_size": 8, "shard_count": 4, "drop_remainder": False},
            "batch_size: got 8, allowed: at most 7: each of 4 shards needs a batch",
        ),
        ({"seed": -1}, "seed: got -1"),
        ({"shard_index": 2, "shard_count": 2}, r"shard_index: got 2, allowed: 0 .. 1"),
        ({"shard_count": 24}, r"shard_count: got 24, allowed: 1 .. 23"),
        ({"threads": -1}, "threads: got -1"),
        ({"workers": -1}, "workers: got -1"),
        ({"shard_count": 4, "drop_remainder": False}, "drop_remainder: got False"),
    ],
)
def test_pipeline_refuses_and_names(options, message):
    with pytest.raises(ValueError, match=message):
        pipeline(_source(), **({"batch_size": 4, "seed": 0} | options))


def test_a_state_of_another_pipeline_is_refused():
    state = pipeline(_source(), 4, 0).get_state()
    for pipe, field in [
        (pipeline(_source(), 4, 1), "seed"),
        (pipeline(_source(), 5, 0), "global_batch_size"),
        (pipeline(_source(22), 4, 0), "items"),
        (pipeline(_source(), 4, 0, shuffle=False), "shuffle"),
    ]:
        with pytest.raises(ValueError, match=f"state: {field}: got"):
            pipe.set_state(state)
    with pytest.raises(ValueError, match="state: step: got -1"):
        pipeline(_source(), 4, 0).set_state({k: v for k, v in state.items() if k != "step"})
