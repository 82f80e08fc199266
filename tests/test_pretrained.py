"""Weights of files, by every kind of file and of names; and what is told of files that do not fit."""

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

from tfssl import networks
from tfssl.errors import UserError

KERAS_NAMES = ("gamma", "beta", "moving_mean", "moving_variance")
TORCH_NAMES = ("weight", "bias", "running_mean", "running_var")


def deeplab(weights=None, *, classes=3, seed=5, backbone="resnet50", **arguments):
    return networks.build("deeplab_v2", classes=classes, seed=seed, backbone=backbone, weights=weights, **arguments)


def backbone_of(network):
    return network.get_layer("encoder").get_layer("backbone")


def equal(one, other):
    return all(np.array_equal(*pair) for pair in zip(one.get_weights(), other.get_weights(), strict=True))


@pytest.fixture(scope="module")
def other():
    """A network of another seed, whose statistics too are not those of a start."""
    network = deeplab(seed=1)
    random = np.random.default_rng(2)
    for variable in network.non_trainable_variables:
        variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return network


def save_npz(network, path):
    np.savez(path, **{variable.path: variable.numpy() for variable in network.variables})


def save_safetensors(network, path):
    save_file({variable.path: variable.numpy() for variable in network.variables}, path)


@pytest.mark.parametrize("suffix, save", [
    (".npz", save_npz), (".safetensors", save_safetensors), (".keras", lambda network, path: network.save(path)),
    (".weights.h5", lambda network, path: network.save_weights(path)),
])  # fmt: skip
def test_files_of_a_network_and_of_its_backbone(other, tmp_path, capsys, suffix, save):
    save(other, tmp_path / f"network{suffix}")
    assert equal(deeplab(str(tmp_path / f"network{suffix}")), other)
    save(backbone_of(other), tmp_path / f"backbone{suffix}")
    network = deeplab(str(tmp_path / f"backbone{suffix}"))
    assert equal(backbone_of(network), backbone_of(other))
    assert not equal(network, other)
    assert capsys.readouterr().err == ""


def test_files_of_keras_applications(tmp_path):
    theirs = keras.applications.ResNet50(weights=None, include_top=False)
    expected = {variable.path: variable.numpy() for variable in theirs.variables}
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    theirs.save(tmp_path / "theirs.keras")
    for name in ("theirs.weights.h5", "theirs.keras"):
        for variable in backbone_of(deeplab(str(tmp_path / name))).variables:
            np.testing.assert_array_equal(variable, expected[variable.path])


def torch_resnet(deep_stem=False, prefix=""):
    """{name: array} as a ResNet-50 of the public PyTorch code has them, with random values."""
    random, tensors = np.random.default_rng(0), {}

    def convolution(name, channels, inputs, kernel):
        tensors[f"{prefix}{name}.weight"] = random.normal(size=(channels, inputs, kernel, kernel)).astype("float32")

    def norm(name, channels):
        for part in TORCH_NAMES:
            tensors[f"{prefix}{name}.{part}"] = random.uniform(size=channels).astype("float32")
        tensors[f"{prefix}{name}.num_batches_tracked"] = np.ones([], np.int64)

    if deep_stem:
        for number, (inputs, channels) in zip((0, 3, 6), [(3, 64), (64, 64), (64, 128)], strict=True):
            convolution(f"conv1.{number}", channels, inputs, 3)
        norm("conv1.1", 64), norm("conv1.4", 64), norm("bn1", 128)
    else:
        convolution("conv1", 64, 3, 7), norm("bn1", 64)
    inputs = 128 if deep_stem else 64
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        channels = 32 * 2**stage
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            convolution(f"{name}.conv1", channels, inputs, 1), norm(f"{name}.bn1", channels)
            convolution(f"{name}.conv2", channels, channels, 3), norm(f"{name}.bn2", channels)
            convolution(f"{name}.conv3", 4 * channels, channels, 1), norm(f"{name}.bn3", 4 * channels)
            if block == 0:
                convolution(f"{name}.downsample.0", 4 * channels, inputs, 1), norm(f"{name}.downsample.1", 4 * channels)
            inputs = 4 * channels
    return tensors


@pytest.mark.parametrize("variant, prefix", [
    ("torchvision", ""), ("deep_stem", "module.backbone."), ("caffe", "Scale."),
])  # fmt: skip
def test_names_of_pytorch(tmp_path, variant, prefix):
    tensors = torch_resnet(variant == "deep_stem", prefix)
    tensors["fc.weight"] = np.zeros((1000, 2048), "float32")
    np.savez(tmp_path / "weights.npz", **tensors)
    backbone = backbone_of(deeplab(str(tmp_path / "weights.npz"), backbone=f"resnet50_{variant}"))
    for layer, name in [("conv3_block2_2", "layer2.1.{}2"), ("conv5_block1_3", "layer4.0.{}3"),
                        ("conv4_block1_0", "layer3.0.downsample.{}")]:  # fmt: skip
        kernel = tensors[prefix + name.format("0" if "down" in name else "conv") + ".weight"]
        np.testing.assert_array_equal(backbone.get_layer(f"{layer}_conv").kernel, kernel.transpose(2, 3, 1, 0))
        norm = backbone.get_layer(f"{layer}_bn")
        for ours, theirs in zip(KERAS_NAMES, TORCH_NAMES, strict=True):
            expected = tensors[prefix + name.format("1" if "down" in name else "bn") + f".{theirs}"]
            np.testing.assert_array_equal(getattr(norm, ours), expected)
    stem = [("conv1_3", "conv1.6", "bn1"), ("conv1_1", "conv1.0", "conv1.1")] if variant == "deep_stem" else [
        ("conv1", "conv1", "bn1")]  # fmt: skip
    for layer, convolution, norm in stem:
        expected = tensors[f"{prefix}{convolution}.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(backbone.get_layer(f"{layer}_conv").kernel, expected)
        np.testing.assert_array_equal(backbone.get_layer(f"{layer}_bn").gamma, tensors[f"{prefix}{norm}.weight"])


def test_coco_weights_of_deeplab_v2_with_other_classes(tmp_path, capsys):
    """The pyramid of as many classes comes with the backbone; of another number it stays at random, which is told."""
    tensors, random = torch_resnet(prefix="Scale."), np.random.default_rng(1)
    for branch in range(4):
        name = f"Scale.layer5.conv2d_list.{branch}"
        tensors[f"{name}.weight"] = random.normal(size=(21, 2048, 3, 3)).astype("float32")
        tensors[f"{name}.bias"] = random.normal(size=21).astype("float32")
    save_file(tensors, tmp_path / "coco.safetensors")
    path = str(tmp_path / "coco.safetensors")
    same = deeplab(path, classes=21, backbone="resnet50_caffe").get_layer("classifier")
    assert capsys.readouterr().err == ""
    for branch, rate in enumerate((6, 12, 18, 24)):
        layer, name = same.get_layer(f"pyramid_rate{rate}"), f"Scale.layer5.conv2d_list.{branch}"
        np.testing.assert_array_equal(layer.kernel, tensors[f"{name}.weight"].transpose(2, 3, 1, 0))
        np.testing.assert_array_equal(layer.bias, tensors[f"{name}.bias"])
    deeplab(path, classes=19, backbone="resnet50_caffe")
    told = capsys.readouterr().err
    assert "left at random" in told and "pyramid_rate12/bias is [19] here, [21] there" in told


@pytest.mark.parametrize("weights, backbone, words", [
    ("imagenet", "resnet50_caffe", "none to download for resnet50_caffe; give a file"),
    ("nowhere.npz", "resnet50", "nowhere.npz: no such file"),
    ("weights.pth", "resnet50", "not a kind of file that can be read .*npz"),
])  # fmt: skip
def test_weights_that_are_not_there(weights, backbone, words):
    with pytest.raises(UserError, match=words):
        deeplab(weights, backbone=backbone)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".keras", ".weights.h5"])
def test_garbage(tmp_path, suffix):
    path = tmp_path / f"garbage{suffix}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=f"garbage{suffix}: cannot be read"):
        deeplab(str(path))


def test_a_file_of_another_network_names_layers_and_shapes(other, tmp_path):
    other.save_weights(tmp_path / "r50.weights.h5")
    path = str(tmp_path / "r50.weights.h5")
    told = r"another network: conv4_block10_1_bn/beta is \[256\] here, missing there.* more"
    with pytest.raises(UserError, match=told):
        deeplab(path, backbone="resnet101")
    with pytest.raises(UserError, match=r"conv1_1_conv/kernel is \[3, 3, 3, 64\] here, missing there"):
        deeplab(path, backbone="resnet50_deep_stem")
    with pytest.raises(UserError, match="is missing here"):  # the variant without biases, which strides elsewhere
        deeplab(path, backbone="resnet50_torchvision")


def test_a_failed_download_is_told(monkeypatch):
    def fail(**_):
        raise OSError("no route to the host")

    monkeypatch.setattr(keras.applications, "ResNet50", fail)
    with pytest.raises(UserError, match="resnet50 cannot be downloaded .no route.*null for a random start"):
        deeplab("imagenet")
