"""The paired stream, on images that hold their own number so that a batch tells which examples it is of."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfssl.data import augment
from tfssl.data.examples import Examples, Source
from tfssl.data.streams import like_image, order, paired_stream

STILL = {"scale": (1.0, 1.0)}  # with crops of the image's size, the weak view is the image
SIDE = 8


def key(number=1):
    return [0, number]


def numbered(count, with_labels=True):
    """Example n is an image and a label full of n."""
    return Examples(
        names=tuple(map(str, range(count))),
        image=lambda index: tf.fill([SIDE, SIDE, 3], tf.cast(index, tf.float32)),
        label=(lambda index: tf.fill([SIDE, SIDE], tf.cast(index, tf.int32))) if with_labels else None,
    )


def pictured(count, side=12):
    """Images and labels of many values, the label at twice the image's size."""
    random = np.random.default_rng(0)
    images = tf.constant(random.uniform(0, 255, (count, side, side, 3)), tf.float32)
    labels = tf.constant(random.integers(0, 9, (count, 2 * side, 2 * side)), tf.int32)
    return Examples(names=tuple(map(str, range(count))), image=lambda index: images[index],
                    label=lambda index: labels[index])  # fmt: skip


def source(labeled, unlabeled, flips=False):
    return Source(labeled=labeled, unlabeled=unlabeled, validation=labeled, classes=("a", "b"),
                  palette=((0, 0, 0), (1, 1, 1)), flips=flips)  # fmt: skip


def batches(data, start=0, stop=4, **changed):
    given = {"seed": 0, "labeled_batch": 2, "unlabeled_batch": 2, "strong_views": 0, "crop": (SIDE, SIDE),
             "ignore_index": 255, "weak": STILL} | changed  # fmt: skip
    return list(paired_stream(data, start=start, stop=stop, **given).as_numpy_iterator())


def numbers(found, stream):
    """Which examples each batch is of: int [batches, B]."""
    images = np.stack([batch[stream][0] for batch in found])
    assert (images == images[:, :, :1, :1, :1]).all()
    return images[:, :, 0, 0, 0].astype(int)


def orders(count, batch, epochs, number=1):
    """The indices of whole epochs, from `order` itself: int [epochs, epoch length]."""
    length = count - count % batch if count >= batch else count
    indices = tf.function(lambda position: order(position, count, batch, key(number)))
    return np.array([int(indices(tf.constant(at, tf.int64))) for at in range(epochs * length)]).reshape(epochs, length)


def assert_equal(one, other):
    assert len(one) == len(other) > 0
    tf.nest.map_structure(np.testing.assert_array_equal, one, other)


def differs(one, other):
    return [not np.array_equal(a, b) for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True)]


def test_batch_n_is_a_function_of_seed_and_n():
    data = source(pictured(5), pictured(7))
    given = {"crop": (10, 10), "weak": {}, "strong_views": 1, "labeled_batch": 2, "unlabeled_batch": 3}
    whole = batches(data, 0, 8, **given)
    assert_equal(batches(data, 5, 8, **given), whole[5:])
    assert_equal(batches(data, 0, 8, **given), whole)
    other = batches(data, 0, 8, **given, seed=1)
    assert all(all(differs([a["labeled"][0], a["unlabeled"][0], a["unlabeled"][2]],
                           [b["labeled"][0], b["unlabeled"][0], b["unlabeled"][2]]))
               for a, b in zip(whole, other, strict=True))  # fmt: skip


def test_shapes_and_types():
    (batch,) = batches(source(pictured(3), pictured(4)), 0, 1, strong_views=2, unlabeled_batch=3, crop=(7, 9))
    image, label = batch["labeled"]
    weak, valid, *strong = batch["unlabeled"]
    assert image.shape == (2, 7, 9, 3) and image.dtype == "float32"
    assert label.shape == (2, 7, 9) and label.dtype == "int32"
    assert weak.shape == (3, 7, 9, 3) and weak.dtype == "float32"
    assert valid.shape == (3, 7, 9) and valid.dtype == "bool"
    assert [(view.shape, view.dtype) for view in strong] == [((3, 7, 9, 3), "float32")] * 2
    assert list(batches(source(pictured(3), pictured(4)), 0, 1, unlabeled_batch=0)[0]) == ["labeled"]


def test_images_come_with_their_own_labels():
    found = batches(source(numbered(6), numbered(6)), 0, 9)
    for batch, indices in zip(found, numbers(found, "labeled"), strict=True):
        np.testing.assert_array_equal(batch["labeled"][1], np.broadcast_to(indices[:, None, None], (2, SIDE, SIDE)))


def test_every_example_is_seen_once_per_epoch():
    found = batches(source(numbered(6), numbered(9)), 0, 9, labeled_batch=2, unlabeled_batch=3)
    for stream, count in (("labeled", 6), ("unlabeled", 9)):
        epochs = numbers(found, stream)[: 3 * (9 // 3)].reshape(-1, count)
        assert len(epochs) >= 2
        for epoch in epochs:
            assert sorted(epoch) == list(range(count))
        assert (epochs[0] != epochs[1]).any()


@pytest.mark.parametrize("count, batch", [(6, 2), (7, 3), (10, 4), (5, 5), (3, 2)])
def test_no_image_is_twice_in_a_batch(count, batch):
    epochs = orders(count, batch, 120)
    for together in epochs.reshape(-1, batch):
        assert len(set(together)) == batch
    assert set(epochs.ravel()) == set(range(count))
    shares = np.bincount(epochs.ravel(), minlength=count) / epochs.size
    np.testing.assert_allclose(shares, 1 / count, atol=0.35 / count)
    assert len({tuple(epoch) for epoch in epochs}) > min(15, np.prod(range(1, count + 1)) / 2)


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_examples_than_a_batch_serve_in_turn(count):
    assert all(sorted(epoch) == list(range(count)) for epoch in orders(count, 4, 8))
    found = batches(source(numbered(count), numbered(6)), 0, 3, labeled_batch=4)
    assert numbers(found, "labeled").shape == (3, 4)


def test_the_two_streams_are_shuffled_independently():
    found = batches(source(numbered(8), numbered(8)), 0, 12)
    labeled, unlabeled = numbers(found, "labeled"), numbers(found, "unlabeled")
    assert (labeled != unlabeled).mean() > 0.6
    for one, other in itertools.permutations([1, 2], 2):
        assert (orders(40, 4, 2, one) != orders(40, 4, 2, other)).mean() > 0.9


def test_the_pairing_changes_every_epoch():
    found = batches(source(numbered(6), numbered(6)), 0, 9)
    pairs = np.stack([numbers(found, "labeled"), numbers(found, "unlabeled")], -1).reshape(3, 6, 2)
    epochs = [frozenset(map(tuple, epoch.tolist())) for epoch in pairs]
    assert len(set(epochs)) == 3
    assert all(len(one & other) <= 3 for one, other in itertools.combinations(epochs, 2))


@pytest.mark.parametrize("ignore_index", [255, -1])
def test_padding_is_ignored_and_not_valid(ignore_index):
    (batch,) = batches(source(numbered(5), numbered(5)), 0, 1, crop=(11, 14), ignore_index=ignore_index)
    image, label = batch["labeled"]
    weak, valid = batch["unlabeled"]
    for view, inside in ((image, label != ignore_index), (weak, valid)):
        for one, within in zip(view, inside, strict=True):
            assert within.sum() == SIDE * SIDE
            assert (one[~within] == augment.PADDING).all() and (one[within] < 5).all()


def test_labels_of_unlabeled_images_are_not_looked_at():
    def refuse(index):
        raise AssertionError("an unlabeled image's label was read")

    forbidden = Examples(names=numbered(4).names, image=numbered(4).image, label=refuse)
    labeled = numbered(4)
    assert_equal(batches(source(labeled, forbidden)), batches(source(labeled, numbered(4, with_labels=False))))


def test_strong_views_have_the_weak_views_geometry_and_colours_of_their_own():
    data = source(pictured(3), pictured(3))
    given = {"strong_views": 2, "weak": {}, "crop": (10, 10)}
    plain = {"operations": 0, "blur": 0.0, "grayscale": 0.0}
    for batch in batches(data, **given, strong=plain):
        weak, _, *strong = batch["unlabeled"]
        for view in strong:
            np.testing.assert_allclose(view, weak, atol=1e-4)
    for batch, without in zip(batches(data, **given, strong={"blur": 1.0}), batches(data, **given), strict=True):
        weak, valid, first, second = batch["unlabeled"]
        assert all(differs(list(first), list(second))) and all(differs(list(first), list(weak)))
        np.testing.assert_array_equal(weak, without["unlabeled"][0])  # the options reach the strong views alone
        np.testing.assert_array_equal(valid, without["unlabeled"][1])


def test_labeled_images_have_strong_views_where_they_are_asked_for():
    """Other colours, the same places; nothing else of the batch changes."""
    data = source(pictured(3), pictured(3))
    given = {"strong_views": 1, "weak": {}, "crop": (10, 10)}
    plain = {"operations": 0, "blur": 0.0, "grayscale": 0.0}
    for strong, alike in ((plain, True), ({"blur": 1.0}, False)):
        for batch, weak in zip(batches(data, **given, strong=strong, labeled_view="strong"),
                               batches(data, **given, strong=strong), strict=True):  # fmt: skip
            image, label = batch["labeled"]
            assert all(np.allclose(one, other, atol=1e-4) == alike
                       for one, other in zip(image, weak["labeled"][0], strict=True))  # fmt: skip
            assert_equal([label, *batch["unlabeled"]], [weak["labeled"][1], *weak["unlabeled"]])


def test_a_label_is_brought_to_its_image_by_nearest_neighbour():
    label = tf.constant(np.arange(24).reshape(4, 6), tf.int32)
    np.testing.assert_array_equal(like_image(label, tf.zeros([4, 6, 3])), label)
    enlarged = like_image(label, tf.zeros([8, 12, 3]))
    np.testing.assert_array_equal(enlarged, np.repeat(np.repeat(label, 2, 0), 2, 1))
    assert enlarged.dtype == tf.int32
    np.testing.assert_array_equal(like_image(enlarged, tf.zeros([4, 6, 3])), label)


@pytest.mark.parametrize("flips, option, mirrored", [(False, None, False), (True, None, True), (False, True, True),
                                                     (True, False, False)])  # fmt: skip
def test_images_are_mirrored_only_where_source_or_option_allow_it(flips, option, mirrored):
    ramp = tf.tile(tf.range(SIDE, dtype=tf.float32)[None, :, None], [SIDE, 1, 3])
    examples = Examples(names=("a", "b"), image=lambda index: ramp, label=lambda index: tf.cast(ramp[..., 0], tf.int32))
    found = batches(source(examples, examples, flips=flips), 0, 10, weak=STILL | {"flip": option})
    for stream in ("labeled", "unlabeled"):
        rising = np.stack([batch[stream][0][:, 0, -1, 0] > 0 for batch in found])
        assert rising.any() and (not rising.all()) == mirrored


def test_replicas_share_out_the_batches_of_one(two_replicas):
    data, given = source(pictured(6), pictured(6)), {"labeled_batch": 4, "unlabeled_batch": 2, "crop": (10, 10)}
    whole = batches(data, 0, 3, **given, weak={})
    stream = paired_stream(data, seed=0, start=0, stop=3, strong_views=0, ignore_index=255, **given)
    shared = list(two_replicas.experimental_distribute_dataset(stream))
    assert len(shared) == 3
    for wanted, batch in zip(whole, shared, strict=True):
        for name in ("labeled", "unlabeled"):
            for tensor, parts in zip(wanted[name], batch[name], strict=True):
                parts = two_replicas.experimental_local_results(parts)
                assert len(parts) == 2 and len(parts[0]) == len(parts[1])
                np.testing.assert_array_equal(np.concatenate(parts), tensor)
