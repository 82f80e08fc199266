"""Weights of KerasHub's presets, by its own download and cache, for our transformers. The package is optional."""

import keras

from tfssl.errors import UserError

PREFIX = "keras_hub:"


def load(backbone, weights, name):
    """Give our backbone, of this name in its table, the weights "keras_hub:PRESET"."""
    try:
        import keras_hub
    except ImportError as error:
        raise UserError(f'weights "{weights}": needs the package keras-hub: pip install keras-hub ({error})') from error
    try:
        source = keras_hub.models.Backbone.from_preset(weights.removeprefix(PREFIX))
    except Exception as error:  # whatever an unknown preset or a download may raise
        raise UserError(f'weights "{weights}": the preset cannot be had ({_first_line(error)})') from error
    copy(source, backbone, weights, name)


def copy(source, backbone, weights, name):
    """Set the weights of our backbone from a backbone of KerasHub."""
    kind = next((kind for kind in _PAIRS if name.startswith(kind)), None)
    if kind is None:
        raise UserError(f'weights "{weights}": presets are for the encoders {", ".join(_PAIRS)}, not for {name}')
    try:
        for layer, arrays in _PAIRS[kind](source):
            backbone.get_layer(layer).set_weights(arrays)
    except (AttributeError, ValueError) as error:  # another kind of model, or other sizes
        raise UserError(f'weights "{weights}": not of a {name} ({_first_line(error)})') from error


def _first_line(error):
    return str(error).strip().partition("\n")[0]


def _vit(source):
    """(name of a layer of ours, its arrays) of a ViTBackbone."""
    tokens, encoder = source.get_layer("vit_patching_and_embedding"), source.get_layer("vit_encoder")
    yield "embed_patches", tokens.patch_embedding.get_weights()
    yield "tokens", [tokens.class_token, keras.ops.expand_dims(tokens.position_embedding.embeddings, 0)]
    for number, block in enumerate(encoder.encoder_layers, start=1):
        yield f"block{number}_attention_norm", block.layer_norm_1.get_weights()
        yield f"block{number}_attention", block.mha.get_weights()
        yield f"block{number}_mlp_norm", block.layer_norm_2.get_weights()
        yield f"block{number}_mlp_expand", block.mlp.dense_1.get_weights()
        yield f"block{number}_mlp_project", block.mlp.dense_2.get_weights()
    yield "norm", encoder.layer_norm.get_weights()


def _dinov2(source):
    """Of a DINOV2Backbone."""
    tokens = source.embeddings
    yield "embed_patches", tokens.patch_embeddings.get_weights()
    yield "tokens", [tokens.cls_token, tokens.position_embeddings]
    for number, block in enumerate(source.encoder.layers, start=1):
        yield f"block{number}_attention_norm", block.norm1.get_weights()
        yield f"block{number}_attention", block.attention.get_weights()
        yield f"block{number}_attention_scale", block.layer_scale1.get_weights()
        yield f"block{number}_mlp_norm", block.norm2.get_weights()
        yield f"block{number}_mlp_expand", block.mlp.fc1.get_weights()
        yield f"block{number}_mlp_project", block.mlp.fc2.get_weights()
        yield f"block{number}_mlp_scale", block.layer_scale2.get_weights()
    yield "norm", source.layernorm.get_weights()


def _mit(source):
    """Of a MiTBackbone, whose attention has matrices where ours has one for each head."""
    norms = [layer for layer in source.layers if isinstance(layer, keras.layers.LayerNormalization)]
    for stage, depth in enumerate(source.layerwise_depths):
        patches = source.get_layer(f"patch_and_embed_{stage}")
        yield f"stage{stage}_embed", patches.proj.get_weights()
        yield f"stage{stage}_embed_norm", patches.norm.get_weights()
        for number in range(depth):
            block = source.get_layer(f"hierarchical_encoder_{stage}_{number}")
            name, heads = f"stage{stage}_block{number}", source.layerwise_num_heads[stage]
            yield f"{name}_attention_norm", block.norm1.get_weights()
            yield f"{name}_attention", _by_heads(block.attn, heads)
            if block.attn.sr_ratio > 1:
                yield f"{name}_attention_reduce", block.attn.sr.get_weights()
                yield f"{name}_attention_reduce_norm", block.attn.norm.get_weights()
            yield f"{name}_ffn_norm", block.norm2.get_weights()
            yield f"{name}_ffn_expand", block.mlp.fc1.get_weights()
            yield f"{name}_ffn_depthwise", block.mlp.dwconv.get_weights()
            yield f"{name}_ffn_project", block.mlp.fc2.get_weights()
        yield f"stage{stage}_norm", norms[stage].get_weights()


def _by_heads(attention, heads):
    """Kernels [C, C] and biases [C] of query, key, value and projection, as Keras's MultiHeadAttention has them."""
    arrays = []
    for dense in (attention.q, attention.k, attention.v):
        kernel, bias = dense.get_weights()
        arrays += [kernel.reshape(len(kernel), heads, -1), bias.reshape(heads, -1)]
    kernel, bias = attention.proj.get_weights()
    return [*arrays, kernel.reshape(heads, -1, kernel.shape[1]), bias]


_PAIRS = {"vit": _vit, "dinov2": _dinov2, "mit": _mit}
