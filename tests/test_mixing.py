"""CutMix and ClassMix on images that hold their own number, so that every pixel tells which image it is from."""

import numpy as np
import pytest
import tensorflow as tf

from tfssl import mixing, randomness
from tfssl.errors import UserError


def key(number):
    return tf.constant([3, number], tf.int32)


def numbered(batch, height, width, first=0):
    """Images [B,H,W,3], labels [B,H,W] and weights [B,H,W] whose values are the image's number."""
    number = np.arange(first, first + batch).reshape(-1, 1, 1) * np.ones((1, height, width))
    image = tf.constant(np.repeat(number[..., None], 3, -1), tf.float32)
    return image, tf.constant(number, tf.int32), tf.constant(number, tf.float32)


def boxes(batch, height, width, area=0.5, number=0):
    """(top, left, tall, wide) of each mask, which must be one full rectangle."""
    masks = mixing.box_masks(key(number), batch, height, width, area)
    assert masks.dtype == tf.bool and masks.shape == (batch, height, width)
    found = []
    for mask in masks.numpy():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        top, left, tall, wide = rows[0], columns[0], np.ptp(rows) + 1, np.ptp(columns) + 1
        rectangle = np.zeros_like(mask)
        rectangle[top : top + tall, left : left + wide] = True
        np.testing.assert_array_equal(mask, rectangle)
        found.append((top, left, tall, wide))
    return np.array(found)


@pytest.mark.parametrize("area", [0.5, 0.25])
def test_a_box_covers_the_area_whatever_its_proportions(area):
    found = boxes(400, 60, 80, area)
    tall, wide = found[:, 2] / 60, found[:, 3] / 80
    np.testing.assert_allclose(tall * wide, area, atol=0.012)
    assert tall.min() < area + 0.03 and tall.max() > 0.97
    assert wide.min() < area + 0.03 and wide.max() > 0.97


def test_heights_are_uniform_on_a_log_scale():
    tall = boxes(4000, 200, 8)[:, 2] / 200
    quarters = np.histogram(tall, 0.5 ** np.array([1.003, 0.75, 0.5, 0.25, -0.01]))[0]
    np.testing.assert_allclose(quarters / 4000, 0.25, atol=0.03)


def test_boxes_are_everywhere():
    found = boxes(3000, 6, 6)
    for start, length in (found[:, [0, 2]].T, found[:, [1, 3]].T):
        places = set(zip(start.tolist(), length.tolist(), strict=True))
        assert places == {(start, length) for length in range(3, 7) for start in range(7 - length)}
    assert abs(np.corrcoef(found[:, 0] / np.maximum(6 - found[:, 2], 1), found[:, 1])[0, 1]) < 0.3


def test_boxes_are_a_function_of_the_key():
    first = boxes(20, 50, 50)
    np.testing.assert_array_equal(first, boxes(20, 50, 50))
    assert (first != boxes(20, 50, 50, number=1)).any(1).mean() > 0.9
    assert len({tuple(box) for box in first}) > 15  # each image has a box of its own


@pytest.mark.parametrize("batch", [2, 3, 6])
def test_no_image_is_its_own_partner(batch):
    shifts = set()
    for number in range(60):
        partner = mixing.partners(key(number), batch).numpy()
        assert sorted(partner) == list(range(batch))
        assert (partner != np.arange(batch)).all()
        shifts.add(partner[0])
    assert shifts == set(range(1, batch))


def test_one_image_cannot_be_mixed():
    with pytest.raises(UserError, match="training.unlabeled_batch"):
        mixing.partners(key(0), 1)
    with pytest.raises(UserError, match="training.unlabeled_batch"):
        mixing.cutmix(key(0), *numbered(1, 8, 8))


def test_mix_takes_the_partners_pixels_under_the_mask():
    random = np.random.default_rng(0)
    mask, partner = random.uniform(size=(3, 4, 5)) < 0.5, [2, 0, 1]
    tensors = [random.normal(0, 1, (3, 4, 5)), random.integers(0, 9, (3, 4, 5)), random.uniform(size=(3, 4, 5)) < 0.5,
               random.normal(0, 1, (3, 4, 5, 2)), random.normal(0, 1, (3, 4, 5, 2, 3))]  # fmt: skip
    for before, after in zip(tensors, mixing.mix(mask, partner, *map(tf.constant, tensors)), strict=True):
        assert after.numpy().dtype == before.dtype
        for image in range(3):
            wanted = before[image].copy()
            wanted[mask[image]] = before[partner[image]][mask[image]]
            np.testing.assert_array_equal(after[image], wanted)


@pytest.mark.parametrize("compiled", [False, True])
def test_cutmix_mixes_image_label_and_weight_by_one_mask(compiled):
    cutmix = tf.function(mixing.cutmix, jit_compile=True) if compiled else mixing.cutmix
    image, label, weight = (part.numpy() for part in cutmix(key(0), *numbered(5, 40, 60)))
    assert (image.dtype, label.dtype, weight.dtype) == (np.float32, np.int32, np.float32)
    np.testing.assert_array_equal(image, np.repeat(label[..., None], 3, -1))
    np.testing.assert_array_equal(label, weight)
    shifts = set()
    for number in range(5):
        foreign = label[number] != number
        assert 0.47 < foreign.mean() < 0.53
        (partner,) = set(label[number][foreign].tolist())
        shifts.add((partner - number) % 5)
    assert len(shifts) == 1


def test_cutmix_is_a_function_of_the_key():
    parts = numbered(4, 16, 16)
    first = mixing.cutmix(key(0), *parts)[1].numpy()
    np.testing.assert_array_equal(first, mixing.cutmix(key(0), *parts)[1])
    assert not np.array_equal(first, mixing.cutmix(key(1), *parts)[1])


def test_partners_are_found_within_the_replica(two_replicas):
    @tf.function
    def mixed():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        number = tf.cast(3 * replica, tf.int32) + tf.range(3)  # images 0..2 here, 3..5 there
        image = tf.broadcast_to(number[:, None, None], [3, 16, 16])
        return mixing.cutmix(randomness.step_key(0, 0), image)[0]

    first, second = (part.numpy() for part in two_replicas.experimental_local_results(two_replicas.run(mixed)))
    assert set(np.unique(first)) == {0, 1, 2} and set(np.unique(second)) == {3, 4, 5}
    for image in range(3):
        assert len(np.unique(first[image])) == len(np.unique(second[image])) == 2
    own = np.arange(3).reshape(3, 1, 1)
    assert not np.array_equal(first != own, second != own + 3)  # and each draws boxes of its own


# ClassMix.

VOID = 255


def some_labels(batch=3, classes=6, seed=0):
    """Labels [B, 12, 12] of different classes in each image, and some ignored pixels."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, classes, (batch, 12, 12))
    label[1] = np.minimum(label[1], 2)  # an odd number of classes
    label[:, :2] = VOID
    return label.astype("int32")


def chosen_classes(mask, label):
    """The classes of each image that a mask covers; it covers all of a class or nothing."""
    found = []
    for one, here in zip(mask, label, strict=True):
        covered = set(here[one].tolist())
        assert covered == {k for k in np.unique(here) if one[here == k].all()}
        found.append(covered)
    return found


@pytest.mark.parametrize("compiled", [False, True])
def test_half_of_the_classes_that_are_there_are_chosen(compiled):
    def drawn(key):
        return mixing.class_masks(key, tf.constant(label), 9, VOID)

    drawn = tf.function(drawn, jit_compile=compiled)
    label = some_labels()
    label[2] = np.where(label[2] == VOID, VOID, 4)  # a single class
    seen = []
    for number in range(200):
        mask = drawn(key(number))
        assert mask.dtype == tf.bool and mask.shape == label.shape
        first, second, third = chosen_classes(mask.numpy(), label)
        assert len(first) == 3 and len(second) == 1 and not third
        assert VOID not in first | second
        seen.append((*first, *(10 + k for k in second)))
    times = np.bincount(np.concatenate(seen))
    np.testing.assert_allclose(times[:6] / 200, 1 / 2, atol=0.12)
    np.testing.assert_allclose(times[10:13] / 200, 1 / 3, atol=0.12)


def test_what_is_ignored_is_never_chosen_even_where_its_number_is_a_class():
    label = some_labels()
    for ignore_index in (0, 5):
        for number in range(20):
            mask = mixing.class_masks(key(number), label % 6, 6, ignore_index).numpy()
            assert not mask[label % 6 == ignore_index].any()
    assert not mixing.class_masks(key(0), np.full((2, 4, 4), VOID), 6, VOID).numpy().any()


@pytest.mark.parametrize("compiled", [False, True])
def test_classmix_pastes_half_of_an_image_onto_its_partner_by_one_mask(compiled):
    label = some_labels(5)
    parts = (*numbered(5, 12, 12), tf.constant(label))

    def mixed(key):
        return mixing.classmix(key, tf.constant(label), *parts, classes=6, ignore_index=VOID)

    image, came_from, weighed, new_label = (part.numpy() for part in tf.function(mixed, jit_compile=compiled)(key(4)))
    np.testing.assert_array_equal(image, np.repeat(came_from[..., None], 3, -1))
    np.testing.assert_array_equal(came_from, weighed)
    own = np.arange(5).reshape(5, 1, 1)
    for kept, classes in zip(came_from == own, chosen_classes(came_from == own, label), strict=True):
        assert len(classes) in (1, 3) and 0 < kept.mean() < 1
    rows, columns = np.indices((12, 12))
    np.testing.assert_array_equal(new_label, label[came_from, rows, columns])
    shifts = {(int(other) - n) % 5 for n, image in enumerate(came_from) for other in np.unique(image) if other != n}
    assert len(shifts) == 1  # one partner for each image, and not itself


def test_classes_are_drawn_for_each_image_and_from_the_key():
    label = np.broadcast_to(np.arange(6).repeat(6).reshape(1, 6, 6), (8, 6, 6)).astype("int32")
    first = mixing.class_masks(key(0), label, 6).numpy()
    np.testing.assert_array_equal(first, mixing.class_masks(key(0), label, 6))
    assert len({mask.tobytes() for mask in first}) > 4
    assert (first != mixing.class_masks(key(1), label, 6).numpy()).any()


def test_classmix_needs_two_images():
    with pytest.raises(UserError, match="training.unlabeled_batch"):
        mixing.classmix(key(0), some_labels(2)[:1], *numbered(1, 12, 12), classes=6)


def test_paste_puts_half_of_the_classes_of_a_labeled_image_on_each_and_tells_their_label():
    draw = np.random.default_rng(0)
    label = np.where(draw.random((2, 24, 32)) < 0.1, 255, draw.integers(5, size=(2, 24, 32)))
    source = 1000.0 + np.arange(2).reshape(2, 1, 1, 1) + np.zeros((2, 24, 32, 3))
    image, told, weight = numbered(4, 24, 32, first=10)
    sure, probability = told < 0, tf.one_hot(tf.zeros_like(told), 5)
    given = [tf.constant(source, tf.float32), tf.constant(label, tf.int32), image, told, weight, sure, probability]
    seen, *after = mixing.paste(key(0), *given, classes=5)
    seen, told, weight, sure, probability = (part.numpy() for part in (seen, *after))
    pasted = seen[..., 0] >= 1000
    sources = []
    for number in range(4):
        (chosen,) = set((seen[number][pasted[number]] - 1000).astype(int).ravel().tolist())
        truth = label[chosen]
        drawn = set(truth[pasted[number]].tolist())
        assert len(drawn) == 2 and 255 not in drawn  # of five the smaller half, and all of their pixels
        np.testing.assert_array_equal(pasted[number], np.isin(truth, list(drawn)))
        np.testing.assert_array_equal(told[number], np.where(pasted[number], truth, 10 + number))
        expected = np.where(pasted[number][..., None], np.eye(5)[truth % 255], np.eye(5)[0])
        np.testing.assert_array_equal(probability[number], expected)
        np.testing.assert_array_equal(weight[number], np.where(pasted[number], 1, 10 + number))
        np.testing.assert_array_equal(sure[number], pasted[number])
        np.testing.assert_array_equal(seen[number][~pasted[number]], 10 + number)
        sources.append(chosen)
    assert sources in ([0, 1, 0, 1], [1, 0, 1, 0])


def test_paste_is_a_function_of_the_key_and_compiles():
    label = tf.constant(np.random.default_rng(0).integers(5, size=(3, 16, 16)), tf.int32)
    given = [numbered(3, 16, 16)[0], label, *numbered(2, 16, 16, first=20)[:2]]
    compiled = tf.function(lambda key: mixing.paste(key, *given, classes=5), jit_compile=True)
    first, again, other = (compiled(key(number))[1].numpy() for number in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
