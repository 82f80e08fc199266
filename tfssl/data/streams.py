"""The paired stream: batch n is a pure function of (seed, n), so resuming at step n replays nothing.

{"labeled": (image [B,H,W,3], label [B,H,W], or [B,H,W,3] where labels are images),
 "unlabeled": (weak [B,H,W,3], valid [B,H,W], strong [B,H,W,3], ...)}

One strong view per learner that asks for one, each with its own colours over the same geometry as the weak view;
`valid` is False where the crop went past the image. The two streams are shuffled independently and anew each epoch,
so which labeled image meets which unlabeled one changes all the time. An example whose file has become bad is replaced
by another of the same epoch, so batches are then a function of (seed, n) and of which files are bad since which step.
"""

import tensorflow as tf

from tfssl.data import augment
from tfssl.randomness import fold

LABELED, UNLABELED = 1, 2  # the two streams' numbers in the random keys


def paired_stream(source, *, seed, start, stop, labeled_batch, unlabeled_batch, strong_views, crop, ignore_index,
                  weak=None, strong=None, labeled_view="weak", shares=(0, 1, 1)):  # fmt: skip
    """The batches start..stop-1 as a tf.data.Dataset; batch n is that of step n + 1.

    `weak` and `strong` are arguments of augment's functions; by labeled_view "strong" the colours of labeled images
    change too. shares: (first, here, all): of each batch, cut into `all`
    equal shares, the shares from `first` on, so many as `here`, one element each; nothing of the others is read. A
    whole batch is one share of one.
    """
    geometry = {**(weak or {}), "crop": tuple(crop), "ignore_index": ignore_index}
    if geometry.get("flip") is None:
        geometry["flip"] = source.flips

    def labeled(place, position, step, key):
        image, label = load(source.labeled, place, position, step)
        image, label, _ = augment.weak(image, like_image(label, image), key, **geometry)
        if labeled_view == "strong":
            image = augment.strong(image, fold(key, 1), **(strong or {}))
        return image, label

    def unlabeled(place, position, step, key):
        image, _ = load(source.unlabeled, place, position, step, with_label=False)
        image, _, valid = augment.weak(image, None, key, **geometry)
        views = [augment.strong(image, fold(key, 1 + view), **(strong or {})) for view in range(strong_views)]
        return image, valid, *views

    steps = (start, stop, shares)
    streams = {"labeled": _stream(source.labeled.count, labeled, [seed, LABELED], labeled_batch, *steps)}
    if unlabeled_batch:
        key = [seed, UNLABELED]
        streams["unlabeled"] = _stream(source.unlabeled.count, unlabeled, key, unlabeled_batch, *steps)
    return tf.data.Dataset.zip(streams).prefetch(2)


def load(examples, place, position, step, with_label=True):
    """(image, label or None) of the example place(position, 0) or, where its files have become bad, place(position, 1),
    place(position, 2) ..."""
    files = examples.files
    if files is None:
        index = place(position, 0)
        return examples.image(index), examples.label(index) if with_label else None
    index, contents = files.first_good(place, position, step)
    return files.image(contents[0], index), files.label(contents[-1], index) if with_label else None


def like_image(label, image):
    """A label [h, w] or [h, w, C] at the image's height and width, by nearest neighbour."""
    size = tf.shape(image)[:2]

    def resized():
        channels = label if label.shape.rank == 3 else label[..., None]
        channels = tf.image.resize(channels, size, method="nearest")
        return channels if label.shape.rank == 3 else channels[..., 0]

    label = tf.cond(tf.reduce_all(tf.equal(tf.shape(label)[:2], size)), lambda: label, resized)
    return tf.ensure_shape(label, [*image.shape[:2], *label.shape[2:]])


def order(position, count, batch, key, turn=0):
    """The example at `position` of an endless shuffled stream (int64 tensors): a fresh permutation each epoch.

    turn: 1, 2 ... for the examples that replace it where it cannot be used: that at the same place of the next batch,
    then of the one after it, so that no two of a batch are replaced by the same; when the epoch's batches are through,
    all others.

    Where there are enough examples an epoch is a whole number of batches (the remainder, different each time, waits
    for a later epoch), so that no batch holds an image twice and mixing partners are different images.
    """
    epoch_length = count - count % batch if count >= batch else count
    epoch, place = position // epoch_length, position % epoch_length
    if not isinstance(turn, int):  # 0, as for nearly all
        batches = max(1, epoch_length // batch)
        beyond = (place + turn - batches + 1) % count
        place = tf.where(turn < batches, (place + turn * batch) % epoch_length, beyond)
    seed = fold(fold(tf.constant(key, tf.int32), 0), epoch)
    return tf.random.experimental.index_shuffle(place, seed=seed, max_index=count - 1)


def _stream(count, prepare, key, batch, start, stop, shares):
    first, here, of_all = shares
    share = batch // of_all
    made = share * here  # of each batch

    def place(position, turn):
        return order(position, count, batch, key, turn)

    def example(number):
        position = number // made * batch + first * share + number % made
        return prepare(place, position, position // batch + 1, fold(fold(tf.constant(key, tf.int32), 1), position))

    numbers = tf.data.Dataset.range(start * made, stop * made)
    loaded = numbers.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return loaded.batch(share, drop_remainder=True)
