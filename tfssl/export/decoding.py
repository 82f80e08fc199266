"""Encoded pictures inside a TensorFlow graph: JPEG and PNG alone, their sizes read before anything is decoded.

A bad file is no error of the call, which may hold good ones beside it: it gives an empty picture and a sentence that
says what is wrong with it.
"""

import tensorflow as tf

OK = "ok"
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
HEADER = 25  # bytes of a PNG up to the bits of a channel
MOST_SCANS = 100  # progressive pictures have some ten; each of them costs a decoder a pass over all pixels


def decode(content, most_pixels):
    """The bytes of a file, string [] -> (uint8 [H,W,3], RGB, upright as stored; "ok" or what is wrong, string [])."""
    nothing = tf.zeros([0, 0, 3], tf.uint8)
    found = tf.data.Dataset.from_tensors(content).map(lambda file: _picture(file, most_pixels)).ignore_errors()
    corrupt = tf.data.Dataset.from_tensors((nothing, tf.constant("is corrupt or cut short: it cannot be decoded")))
    return found.concatenate(corrupt).take(1).get_single_element()


def _picture(content, most_pixels):
    """The same where a decoder may raise an error."""
    start = tf.strings.join([tf.strings.substr(content, 0, HEADER), b"\0" * HEADER])
    header = tf.cast(tf.io.decode_raw(tf.strings.substr(start, 0, HEADER), tf.uint8), tf.int64)
    is_png = tf.strings.substr(start, 0, len(PNG)) == PNG
    is_jpeg = tf.strings.substr(start, 0, len(JPEG)) == JPEG

    height, width = tf.case(
        [(is_png, lambda: (_big_endian(header[20:24]), _big_endian(header[16:20]))),
         (is_jpeg, lambda: tuple(tf.unstack(tf.io.extract_jpeg_shape(content, tf.int64))[:2]))],
        lambda: (tf.constant(0, tf.int64),) * 2,
    )  # fmt: skip
    too_large = tf.strings.format("has {} x {} pixels, more than {}", (height, width, most_pixels))
    wrong = tf.case(
        [(tf.equal(tf.strings.length(content), 0), lambda: tf.constant("is empty")),
         (~(is_png | is_jpeg), lambda: tf.constant("is neither a JPEG nor a PNG")),
         # a side may be so long that the product is no number
         (tf.maximum(height, width) > most_pixels, lambda: too_large),
         (height * width > most_pixels, lambda: too_large),
         (is_png & (header[24] > 8), lambda: tf.constant("has 16 bits a channel; convert it to 8")),
         (is_jpeg & (_scans(content) > MOST_SCANS), lambda: tf.constant(f"has more than {MOST_SCANS} scans"))],
        lambda: tf.constant(OK),
    )  # fmt: skip
    picture = tf.cond(wrong == OK, lambda: _decoded(content, is_png), lambda: tf.zeros([0, 0, 3], tf.uint8))
    return picture, wrong


def _decoded(content, is_png):
    return tf.cond(is_png, lambda: tf.io.decode_png(content, 3), lambda: tf.io.decode_jpeg(content, 3))


def _big_endian(digits):
    return tf.reduce_sum(digits * tf.constant([2**24, 2**16, 2**8, 1], tf.int64))


def _scans(content):
    """How often a JPEG says "start of scan"; within one, no byte of all ones is followed by that.

    The length after it must be that of the number of components, as decoders want it: a film that a telephone puts
    behind the picture has the mark alone some ten times a megabyte.
    """
    values = tf.io.decode_raw(content, tf.uint8)
    mark, start, high, low, components = (values[n : tf.size(values) - 4 + n] for n in range(5))
    begun = (mark == 0xFF) & (start == 0xDA) & (high == 0) & (low == 6 + 2 * components) & (components <= 4)
    return tf.reduce_sum(tf.cast(begun, tf.int32))
