"""How much of what moves the networks comes from each loss term: a diagnostic that `SemiSupervised.minimize` logs."""

import tensorflow as tf

from tfssl.methods import replicas

SHARE = "gradient_share_"  # begins the column of each term's share


def share_of(term):
    return SHARE + term


def last_kernels(networks):
    """Where gradients of the terms are compared: the last kernel of each encoder, which all that a network learns
    passes through, and of which a gradient costs next to nothing; of networks without one, their own last kernel.
    """
    encoders = [network.get_layer("encoder") for network in networks if has_encoder(network)]
    return [
        [weight for weight in part.trainable_variables if len(weight.shape) > 1][-1] for part in encoders or networks
    ]


def has_encoder(network):
    return "encoder" in {layer.name for layer in network.layers}


def gradient_sizes(tape, terms, networks, wanted):
    """The Euclidean length of each term's gradient over `last_kernels`: {term: scalar}, zeros unless wanted [].

    Through a synchronized batch norm a gradient asks the other replicas, which TensorFlow cannot do within a condition:
    then it is computed in every step, as next to nothing as it costs.
    """
    kernels = [kernel.value for kernel in last_kernels(networks)]

    def sizes():
        return {term: tf.linalg.global_norm(tape.gradient(loss, kernels, unconnected_gradients="zero"))
                for term, loss in terms.items()}  # fmt: skip

    if replicas.others() is not None and any(map(is_synchronized, networks)):
        return sizes()
    return tf.cond(wanted, sizes, lambda: dict.fromkeys(terms, 0.0))


def is_synchronized(network):
    return any(getattr(layer, "synchronized", False) for layer in network._flatten_layers())
