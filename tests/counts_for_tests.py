"""How parameters are counted by their kind, in a Keras model and for the layers that a table names."""

import math
from collections import Counter

KINDS = {"bias": "biases", "gamma": "norms", "beta": "norms", "moving_mean": "statistics",
         "moving_variance": "statistics"}  # fmt: skip

# Of torchvision 0.14, each printed by the expression above it, with
#
# def kinds(module):
#     found = Counter()
#     for part in module.modules():
#         norm = isinstance(part, (nn.BatchNorm2d, nn.LayerNorm))
#         for name, values in part.named_parameters(recurse=False):
#             found["norms" if norm else "biases" if name.endswith("bias") else "kernels"] += values.numel()
#         for name, values in part.named_buffers(recurse=False):
#             found["statistics"] += values.numel() * values.is_floating_point()
#     return found
TORCHVISION = {
    # model = torchvision.models.resnet50(); model.fc = nn.Identity(); print(kinds(model)); likewise resnet101
    "resnet50": Counter(kernels=23_454_912, norms=53_120, statistics=53_120),
    "resnet101": Counter(kernels=42_394_816, norms=105_344, statistics=105_344),
    # print(kinds(torchvision.models.segmentation.deeplabv3.ASPP(2048, [6, 12, 18], 256)))
    "pyramid": Counter(kernels=15_532_032, norms=3_072, statistics=3_072),
    # model = torchvision.models.VisionTransformer(image_size=384, patch_size=16, num_layers=12, num_heads=3,
    #     hidden_dim=192, mlp_dim=768); model.heads = nn.Identity(); print(kinds(model))
    "vit_tiny": Counter(kernels=5_566_848, biases=20_928, norms=9_600),
    # ... num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072
    "vit_base": Counter(kernels=85_968_384, biases=83_712, norms=38_400),
    # ... num_layers=24, num_heads=16, hidden_dim=1024, mlp_dim=4096
    "vit_large": Counter(kernels=303_368_192, biases=222_208, norms=100_352),
}


def kinds(model):
    """The numbers in a Keras model by what they are. Statistics are not trained: PyTorch has them among its buffers."""
    found = Counter()
    for variable in model.weights:
        found[KINDS.get(variable.name, "kernels")] += math.prod(variable.shape)
    return found


def trainable(model):
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def total(counts):
    return sum(counts, Counter())


def convolution(inputs, outputs, kernel=1, bias=True):
    return Counter(kernels=kernel**2 * inputs * outputs, biases=outputs * bias)


def batch_norm(channels):
    return Counter(norms=2 * channels, statistics=2 * channels)


def normalised(inputs, outputs, kernel=1):
    """A convolution without a bias, and its batch norm."""
    return convolution(inputs, outputs, kernel, bias=False) + batch_norm(outputs)


def separable(inputs, outputs):
    """Depthwise, then of 1 x 1, each with its batch norm: _split_separable_conv2d of tensorflow/models."""
    return Counter(kernels=3 * 3 * inputs) + batch_norm(inputs) + normalised(inputs, outputs)
