"""The networks: every one a Functional model from `image` to {"logits", "features"}."""

import keras

from tfssl.networks.deeplab import deeplab_v2, deeplab_v3_plus
from tfssl.networks.dpt import dpt
from tfssl.networks.segformer import segformer
from tfssl.networks.setr import setr
from tfssl.networks.unet import unet

NETWORKS = {
    "deeplab_v2": deeplab_v2,
    "deeplab_v3_plus": deeplab_v3_plus,
    "segformer": segformer,
    "setr": setr,
    "dpt": dpt,
    "unet": unet,
}


def build(name: str, *, classes: int, seed: int, **arguments) -> keras.Model:
    """The network `name` of NETWORKS, by its keyword arguments; equal seeds give bitwise equal weights.

    Initialisers draw from Keras's global generator: this seeds it.
    """
    keras.utils.set_random_seed(seed)
    return NETWORKS[name](classes, **arguments)


def stride(name: str, arguments: dict) -> int | None:
    """Pixels of the image, in a row, for one place of the coarsest map; smaller images are no mistake."""
    fixed = {"segformer": 32, "setr": 16, "dpt": 14}
    if name == "unet":
        return 2 ** arguments["levels"]
    return fixed.get(name) or arguments.get("output_stride")


def head_variables(network: keras.Model) -> list[keras.Variable]:
    """The trainable variables outside of the layer `backbone`, for a learning-rate factor of their own.

    All of them in a network that has no backbone, as a projection head.
    """
    if "encoder" not in {layer.name for layer in network.layers}:
        return list(network.trainable_variables)
    backbone = {id(variable) for variable in network.get_layer("encoder").get_layer("backbone").variables}
    return [variable for variable in network.trainable_variables if id(variable) not in backbone]
