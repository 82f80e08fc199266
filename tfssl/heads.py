"""Networks beside those that predict labels: built by the methods that need them, and put into `heads`."""

import keras

STRIDES = (2, 2, 1, 2, 1, 2, 1, 2)  # of the flaw detector's eight convolutions
WIDTHS = (1, 2, 2, 4, 4, 8, 8)  # of its first seven, in multiples of the first


def flaw_detector(channels, *, width=64, stride=32):
    """The flaw detector of GCT (Ke et al., ECCV 2020, appendix B): [B, H, W, channels] -> flaws [B, h, w, 1].

    Eight convolutions of 4 x 4 with 64-128-128-256-256-512-512-1 filters and strides 2-2-1-2-1-2-1-2, after each but
    the last batch norm (so those have no bias) and leaky ReLU of 0.2. Whoever calls it enlarges the map to H x W.
    (The public code, PixelSSL, has instance norm for the second half of the channels.)
    width: filters of the first, of which all others are multiples. stride: of the map; below 32, the paper's, the last
    convolutions take no stride, so that small crops too have a map and not a point.
    """
    inputs = x = keras.Input((None, None, channels), name="image_and_prediction")
    reached = 1
    for number, (wanted, step) in enumerate(zip((*WIDTHS, None), STRIDES, strict=True), start=1):
        step = step if reached < stride else 1
        reached *= step
        last = wanted is None
        x = keras.layers.Conv2D(1 if last else width * wanted, 4, strides=step, padding="same", use_bias=last,
                                name=f"convolution_{number}")(x)  # fmt: skip
        if not last:
            x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"norm_{number}")(x)
            x = keras.layers.LeakyReLU(negative_slope=0.2, name=f"leaky_{number}")(x)
    return keras.Model(
        inputs, keras.layers.Activation("linear", dtype="float32", name="flaws")(x), name="flaw_detector"
    )


def discriminator(channels, *, width=64):
    """The discriminator of AdvSSL (Hung et al., BMVC 2018, section 3.2): [B, H, W, channels] -> logits [B, h, w, 1].

    Five convolutions of 4 x 4 and stride 2 with 64-128-256-512-1 filters, leaky ReLU of 0.2 between, no batch norm.
    Whoever calls it enlarges the map to H x W. width: filters of the first, of which the others are multiples.
    """
    inputs = x = keras.Input((None, None, channels), name="prediction")
    for number, filters in enumerate((width, 2 * width, 4 * width, 8 * width), start=1):
        x = keras.layers.Conv2D(filters, 4, strides=2, padding="same", name=f"convolution_{number}")(x)
        x = keras.layers.LeakyReLU(negative_slope=0.2, name=f"leaky_{number}")(x)
    x = keras.layers.Conv2D(1, 4, strides=2, padding="same", name="convolution_5")(x)
    return keras.Model(inputs, keras.layers.Activation("linear", dtype="float32", name="real")(x), name="discriminator")


def representation_head(features, channels, seed):
    """g of U2PL (Wang et al., CVPR 2022, section 3.1), [B, h, w, features] -> [B, h, w, channels]: two
    blocks of convolution, batch norm and ReLU, the first halving the channels; then the representation.
    """
    maps = x = keras.Input((None, None, features), name="features")
    start = keras.initializers.GlorotUniform
    for block in range(2):
        x = keras.layers.Conv2D(max(1, features // 2), 3, padding="same", use_bias=False,
                                kernel_initializer=start(seed + block))(x)  # fmt: skip
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x))
    x = keras.layers.Conv2D(channels, 1, kernel_initializer=start(seed + 2))(x)
    return keras.Model(maps, x, name="projection")
