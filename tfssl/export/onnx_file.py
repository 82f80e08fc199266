"""The ONNX file for teams that deploy in a runtime of their own."""

import json

import keras
import onnx
import tensorflow as tf
import tf2onnx
from tf2onnx.graph_matcher import GraphMatcher, OpTypePattern

OPSET = 18  # ONNX Runtime 1.14 and later
MOST_TRANSPOSES = 4  # of a convolutional network: each moves all values of its tensor


class ExportError(RuntimeError):
    """An exported file is not what it must be."""


def write_onnx(product, path):
    """Write an ONNX file: image uint8 [batch,height,width,3], RGB -> the task's outputs by their names.

    The product's facts are stored one by one as JSON text in metadata_props.
    """
    image = tf.TensorSpec([None, None, None, 3], tf.uint8, name="image")
    model, _ = tf2onnx.convert.from_function(tf.function(product.outputs), [image], opset=OPSET,
                                             custom_rewriter=[rewrite_dilations])  # fmt: skip
    for value in [*model.graph.input, *model.graph.output]:
        dimensions = value.type.tensor_type.shape.dim[:3]
        for dimension, name in zip(dimensions, ("batch", "height", "width"), strict=True):
            dimension.dim_param = name
    del model.graph.value_info[:]  # the converter's guesses, under the old names of the dimensions
    pixels = {"Image.BitmapPixelFormat": "Rgb8", "Image.NominalPixelRange": "NominalRange_0_255",
              "Image.ColorSpaceGamma": "SRGB"}  # fmt: skip
    onnx.helper.set_model_props(model, {**pixels, **{name: json.dumps(value) for name, value in product.facts.items()}})
    onnx.checker.check_model(model, full_check=True)
    refuse_surprises(model, None if attends(product.network) else MOST_TRANSPOSES)
    onnx.save(model, path)


def rewrite_dilations(graph, operations):
    """Dilated convolutions of "same" padding as such, where TensorFlow folds the image into a batch for them.

    The converter does so only for padding that it finds as a constant; without it each of them is eight transpositions.
    """
    pattern = OpTypePattern("BatchToSpaceND", name="unfold", inputs=[
        OpTypePattern("Conv2D|DepthwiseConv2dNative", name="convolution", inputs=[
            OpTypePattern("SpaceToBatchND", name="fold", inputs=[OpTypePattern("*"), OpTypePattern("Const"),
                                                                 OpTypePattern("*")]),
            OpTypePattern("*"),
        ]),
        OpTypePattern("Const"), OpTypePattern("*"),
    ])  # fmt: skip
    for match in GraphMatcher(pattern, allow_reorder=False).match_ops(operations):
        fold, convolution, unfold = (match.get_op(name) for name in ("fold", "convolution", "unfold"))
        dilations = fold.inputs[1].get_tensor_value(as_list=True)
        reach = [(side - 1) * dilation for side, dilation in
                 zip(graph.get_shape(convolution.input[1])[:2], dilations, strict=True)]  # fmt: skip
        graph.replace_inputs(convolution, [fold.input[0], convolution.input[1]])
        graph.copy_shape(unfold.output[0], convolution.output[0])
        graph.replace_all_inputs(unfold.output[0], convolution.output[0])
        convolution.set_attr("dilations", [1, *dilations, 1])
        convolution.set_attr("padding", "EXPLICIT")
        padding = [part for total in reach for part in (total // 2, total - total // 2)]
        convolution.set_attr("explicit_paddings", [0, 0, *padding, 0, 0])
    return graph.get_nodes()


def attends(network):
    """Whether it is a transformer, whose blocks take heads and tokens apart and so transpose in any runtime."""
    return any(isinstance(layer, keras.layers.MultiHeadAttention) or
               isinstance(layer, keras.Model) and attends(layer) for layer in network.layers)  # fmt: skip


def refuse_surprises(model, most_transposes=MOST_TRANSPOSES):
    """Raise ExportError where another runtime would compute something else, nothing at all, or slowly."""
    domains = {opset.domain for opset in model.opset_import if opset.domain not in ("", "ai.onnx")}
    used = {node.domain for node in _nodes(model.graph) if node.domain not in ("", "ai.onnx")}
    if used:
        raise ExportError(f"onnx: has operations of its own ({', '.join(sorted(used | domains))})")
    transposes = sum(node.op_type == "Transpose" for node in _nodes(model.graph))
    if most_transposes is not None and transposes > most_transposes:
        raise ExportError(f"onnx: has {transposes} transpositions, more than {most_transposes}")
    for node in _nodes(model.graph):
        # TensorFlow samples at pixel centres; any other convention shifts every mask by part of a pixel.
        modes = [item.s for item in node.attribute if item.name == "coordinate_transformation_mode"]
        if node.op_type == "Resize" and modes not in ([], [b"half_pixel"]):  # absent: half_pixel
            raise ExportError(f"onnx: {node.name} resizes with {modes[0].decode()}, not with half_pixel")


def _nodes(graph):
    """All nodes of a graph, those in the bodies of loops and branches too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)
