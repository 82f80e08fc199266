"""How much of what moves the networks comes from each loss term: a diagnostic that `SemiSupervised.minimize` logs."""

import tensorflow as tf

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


def gradient_sizes(tape, terms, variables):
    """The Euclidean length of each term's gradient over the variables: {term: scalar}."""
    return {term: tf.linalg.global_norm(tape.gradient(loss, variables, unconnected_gradients="zero"))
            for term, loss in terms.items()}  # fmt: skip
