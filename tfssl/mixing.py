"""Mixing different images of the batch by one mask for image, pseudo-label and weight.

CutMix: Yun et al., ICCV 2019; French et al., BMVC 2020, arXiv:1906.01916. ClassMix: Olsson et al., WACV 2021,
arXiv:2007.07936. Partners are found inside the replica, and are never the image itself. `paste` takes labeled images.
"""

import tensorflow as tf

from tfssl.errors import UserError
from tfssl.randomness import fold


def box_masks(key, batch, height, width, area=0.5):
    """One rectangle per image covering `area` of it, its aspect ratio and place random: bool [B, H, W].

    The proportions are drawn as in French et al.: the height's share is uniform on a log scale in [area, 1] and
    the width's share makes up the area.
    """
    draws = tf.random.stateless_uniform([3, batch, 1], key)
    share = tf.exp(draws[0] * tf.math.log(tf.cast(area, tf.float32)))  # in (area, 1]
    tall, wide = tf.round(share * height), tf.round(area / share * width)
    top, left = tf.round(draws[1] * (height - tall)), tf.round(draws[2] * (width - wide))
    rows, columns = tf.range(height, dtype=tf.float32)[None], tf.range(width, dtype=tf.float32)[None]
    inside_rows = (rows >= top) & (rows < top + tall)
    inside_columns = (columns >= left) & (columns < left + wide)
    return inside_rows[:, :, None] & inside_columns[:, None, :]


def partners(key, batch):
    """A random cyclic shift of 0..B-1: int32 [B], no image its own partner (with one image there is no other)."""
    if batch == 1:
        raise UserError("training.unlabeled_batch: mixing needs at least two unlabeled images on each replica")
    shift = tf.random.stateless_uniform([], key, minval=1, maxval=batch, dtype=tf.int32)
    return (tf.range(batch) + shift) % batch


def mix(mask, partner, *tensors):
    """Each tensor [B, H, W, ...] with the pixels under `mask` taken from the partner image, by one mask for all."""

    def mixed(tensor):
        here = tf.reshape(mask, tf.concat([tf.shape(mask), tf.ones([tensor.shape.rank - 3], tf.int32)], 0))
        return tf.where(here, tf.gather(tensor, partner), tensor)

    return tuple(mixed(tensor) for tensor in tensors)


def cutmix(key, image, *others, area=0.5):
    """(image, *others) after CutMix: each image gets a box of its partner, in image, pseudo-label and weight alike."""
    batch, height, width = image.shape[:3]
    mask = box_masks(fold(key, 0), batch, height, width, area)
    return mix(mask, partners(fold(key, 1), batch), image, *others)


def class_masks(key, label, classes, ignore_index=255):
    """Half of the classes that each label [B, H, W] shows, drawn evenly, as a mask: bool [B, H, W].

    Of an odd number of classes the smaller half, of a single one none (the paper says "half"). Ignored pixels are
    in no mask. All classes at once: presence is counted by one sum over segments, and the drawn are those with the
    largest of random numbers.
    """
    batch = label.shape[0]
    known = label != ignore_index
    place = tf.where(known, tf.range(batch)[:, None, None] * classes + label, -1)  # a negative segment is no segment
    counts = tf.math.unsorted_segment_sum(tf.ones(place.shape, tf.int32), place, batch * classes)
    present = tf.reshape(counts, [batch, classes]) > 0
    draws = tf.where(present, tf.random.stateless_uniform([batch, classes], key), -1.0)
    rank = tf.argsort(tf.argsort(draws, direction="DESCENDING"))  # the place of each class, the present ones first
    chosen = rank < tf.reduce_sum(tf.cast(present, tf.int32), axis=1, keepdims=True) // 2
    return tf.gather(chosen, tf.where(known, label, 0), batch_dims=1) & known


def classmix(key, label, image, *others, classes, ignore_index=255):
    """(image, *others) after ClassMix: of each image half of the classes of its label, the rest from its partner.

    label: int [B, H, W] below `classes`, or `ignore_index`. So half of the classes are cut out of each image and
    pasted onto its partner; what is ignored is never pasted.
    """
    mask = class_masks(fold(key, 0), label, classes, ignore_index)
    return mix(~mask, partners(fold(key, 1), image.shape[0]), image, *others)


def paste(key, source, label, image, *others, classes, ignore_index=255):
    """(image, *others) with half of the classes of a labeled image pasted over each image, where its label is told.

    So DACS pastes its labeled source domain (Tranheden et al., WACV 2021, arXiv:2007.08702); which half, as ClassMix
    has it. source: [L, H, W, 3], label: int [L, H, W] of the labeled images, dealt out to the images in turn. What is
    known under the mask is in `others`, by what they are: labels [B, H, W], probabilities [B, H, W, C], weights
    [B, H, W], which become 1, and bool [B, H, W], which become true.
    """
    first = tf.random.stateless_uniform([], fold(key, 1), maxval=label.shape[0], dtype=tf.int32)
    dealt = (tf.range(image.shape[0]) + first) % label.shape[0]
    source, label = tf.gather(source, dealt), tf.gather(label, dealt)
    mask = class_masks(fold(key, 0), label, classes, ignore_index)

    def pasted(other):
        if other.shape.rank == 4:
            return tf.where(mask[..., None], tf.one_hot(label, classes, dtype=other.dtype), other)
        if other.dtype.is_integer:
            return tf.where(mask, tf.cast(label, other.dtype), other)
        return tf.where(mask, tf.ones_like(other), other)

    return (tf.where(mask[..., None], source, image), *map(pasted, others))
