"""A tiny network that keeps the contract, synthetic batches, and the way a method is driven without data or fit."""

import keras
import numpy as np
import tensorflow as tf

from tfssl import networks, optimizers, strategies
from tfssl.memory import Prototypes
from tfssl.methods import METHODS
from tfssl.networks.layers import StochasticDepth, image_input, point_classifier, with_classifier
from tfssl.tasks import Segmentation

CLASSES = ("ground", "tree", "sky")
FEATURES = 8
SIZE = 32
VOID = 255
QUIET = {"dropout": 0.0, "stochastic_depth": 0.0, "frozen_norm": True}


def tiny_network(seed=0, *, classes=3, dropout=0.0, stochastic_depth=0.0, frozen_norm=False):
    """[B,H,W,3] -> {"logits" [B,H,W,C], "features" [B,H/4,W/4,8]}. Of three classes every one wins somewhere."""
    keras.utils.set_random_seed(seed)
    image = image_input()
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    x = keras.layers.Conv2D(FEATURES, 3, strides=2, padding="same", use_bias=False)(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    branch = keras.layers.Conv2D(FEATURES, 3, padding="same")(x)
    x = keras.layers.Add()([x, StochasticDepth(stochastic_depth, number=1)(branch)])
    x = keras.Model(image, x, name="backbone")(image)
    x = keras.layers.Conv2D(FEATURES, 3, strides=2, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    network = with_classifier(keras.Model(image, x, name="encoder"), point_classifier(FEATURES, classes, dropout))
    classifier = network.get_layer("classifier").get_layer("logits_convolution")
    classifier.kernel.assign(keras.random.normal(classifier.kernel.shape, stddev=1.5, seed=seed))
    if frozen_norm:
        freeze_norm(network)
    return network


def freeze_norm(network):
    for layer in network._flatten_layers():
        layer.trainable = layer.trainable and not isinstance(layer, keras.layers.BatchNormalization)


def colored_blocks(generator, count, block=8):
    """Images [count, 32, 32, 3] of random colours, constant on blocks but for a little noise."""
    colors = generator.uniform(0, 255, [count, SIZE // block, SIZE // block, 3])
    image = np.kron(colors, np.ones([1, block, block, 1])) + generator.normal(0, 10, [count, SIZE, SIZE, 3])
    return np.clip(image, 0, 255).astype("float32")


def make_batch(seed=0, count=4, strong_views=2, classes=3):
    """A paired batch as the stream gives it, some labels void and some unlabeled pixels outside of the image."""
    generator = np.random.default_rng(seed)
    label = np.kron(generator.integers(0, classes, [count, 4, 4]), np.ones([1, 8, 8])).astype("int32")
    label[:, :3] = VOID
    weak = colored_blocks(generator, count)
    valid = np.ones([count, SIZE, SIZE], bool)
    valid[0, :, 25:] = False
    strong = [np.clip(weak * generator.uniform(0.6, 1.4, 3) + generator.uniform(-30, 30, 3), 0, 255)
              for _ in range(strong_views)]  # fmt: skip
    return {
        "labeled": (tf.constant(colored_blocks(generator, count)), tf.constant(label)),
        "unlabeled": tuple(map(tf.constant, (weak, valid, *(view.astype("float32") for view in strong)))),
    }


def half(batch, number):
    """The first (0) or second (1) half of a batch, what each of two replicas is given."""
    return tf.nest.map_structure(lambda tensor: tf.split(tensor, 2)[number], batch)


def make_method(name, *, learners=None, strategy=None, rate=1.0, head_factor=1.0, steps=8, seed=0, xla=False,
                dropout=0.3, stochastic_depth=0.3, frozen_norm=False, classes=CLASSES, ohem=None,
                **arguments):  # fmt: skip
    """A method of METHODS over tiny networks. Plain SGD: at the default rate a step moves weights by -gradient.

    An optimizer with settings of its own, that the page makes, gives way to plain SGD too, over the same variables.
    """
    page = METHODS[name]
    with (strategy or tf.distribute.get_strategy()).scope():
        options = {"dropout": dropout, "stochastic_depth": stochastic_depth, "frozen_norm": frozen_norm,
                   "classes": len(classes)}  # fmt: skip
        learners = learners or [tiny_network(11 + number, **options) for number in range(page.learners_of(arguments))]
        method = page(learners, Segmentation(classes, VOID, ohem), steps=steps, seed=seed, xla=xla, **arguments)
        for head in method.heads.values() if frozen_norm else ():
            freeze_norm(head)
        method.compile(optimizer=plain_sgd(rate, method.minimised, head_factor), jit_compile=False)
        for further, moved in method.also_minimised.items():
            method.further_optimizers[further] = plain_sgd(rate, moved, head_factor)
        for further in method.further_optimizers.keys() - method.also_minimised.keys():
            method.further_optimizers[further] = sgd_over(method.further_optimizers[further]._trainable_variables, rate)
    return method


def plain_sgd(rate, moved, head_factor):
    variables = [variable for network in moved for variable in network.trainable_variables]
    return sgd_over(variables, rate, [variable for network in moved for variable in networks.head_variables(network)],
                    head_factor)  # fmt: skip


def sgd_over(variables, rate, head=(), head_factor=1.0):
    optimizer = optimizers.SGD(rate, momentum=0.0)
    whole = optimizers.scaled(optimizer)  # else Keras would scale it by itself, in its own way
    whole.build(variables)
    optimizer.set_factors(head, head_factor)
    return whole


def streamed(method, batch):
    """What of a batch the stream gives a method: as many strong views as it asks for, unlabeled images if any."""
    if not method.uses_unlabeled:
        return {"labeled": batch["labeled"]}
    return {**batch, "unlabeled": batch["unlabeled"][: 2 + method.strong_views]}


def stream(method, *batches):
    """Batches as the tf.data.Dataset that training reads."""
    stacked = tf.nest.map_structure(lambda *tensors: tf.stack(tensors), *(streamed(method, batch) for batch in batches))
    return spread(method.distribute_strategy, tf.data.Dataset.from_tensor_slices(stacked))


def spread(strategy, batches):
    """A data set of batches over the replicas of a strategy, as training has it."""

    def shares_of(first, here, of_all):
        if of_all == 1:
            return batches
        cut = batches.map(lambda batch: tf.nest.map_structure(lambda each: tf.stack(tf.split(each, of_all)), batch))
        return cut.flat_map(lambda batch: tf.data.Dataset.from_tensor_slices(batch).skip(first).take(here))

    return strategies.spread(strategy, shares_of)


def step(method, batch, batches=(), traced=False):
    """One training step: {logged name: number}, split over the replicas if there are several.

    batches: all the data, for a phase that begins with a pass over it. traced: the way fit does it. Where there is one
    replica and no XLA, the same step without a trace, which takes five times as long as one step.
    """
    method.enter(steps_done(method), lambda: stream(method, *batches))
    method.reset_trackers()
    if traced or method.xla or method.distribute_strategy.num_replicas_in_sync > 1:
        logged = method.train_function(iter(stream(method, batch)))
    else:
        logged = method.train_step(streamed(method, batch))
    return {name: float(value) for name, value in logged.items()}


def steps_done(method):
    return int(method.optimizer.iterations.numpy())


def all_networks(method):
    """Every network a method holds, by role; heads, and those it does not show, such as frozen ones, too."""
    named = {**method.roles, **method.heads}
    shown = {id(network) for network in (method, *named.values())}
    hidden = [layer for layer in method._flatten_layers(recursive=False) if isinstance(layer, keras.Model)]
    return named | {f"hidden_{n}": layer for n, layer in enumerate(hidden) if id(layer) not in shown}


def weights(network):
    """All weights of a network or layer as copies, by name and place."""
    return {f"{n} {weight.name}": weight.numpy() for n, weight in enumerate(network.weights)}


def snapshot(method):
    """The weights of all networks and memories of a method: {role: {weight: array}}."""
    found = {role: weights(network) for role, network in all_networks(method).items()}
    return found | {f"memory_{n + 1}": weights(memory) for n, memory in enumerate(method.memories)}


def remember(method):
    """A function that brings back all weights and the step as they are now, so that one trace serves many steps."""
    layers = [*all_networks(method).values(), *method.memories]
    values, number = [layer.get_weights() for layer in layers], steps_done(method)
    slots = [variable for optimizer in method.optimizers for variable in optimizer.variables]
    held_slots = [variable.numpy() for variable in slots]

    def restore():
        for layer, held in zip(layers, values, strict=True):
            layer.set_weights(held)
        for variable, value in zip(slots, held_slots, strict=True):
            variable.assign(value)
        method.optimizer.iterations.assign(number)

    return restore


def fill(memory, generator):
    """Put something into a memory, so that it matters: prototypes of all classes, or queues that are full."""
    memory.value.assign(generator.normal(size=memory.value.shape))
    if isinstance(memory, Prototypes):
        memory.seen.assign(5 * np.ones(memory.seen.shape))
    else:
        memory.filled.assign(memory.capacity)


def same(first, second):
    """Whether two nests of arrays are equal to the bit."""
    return all(map(np.array_equal, tf.nest.flatten(first), tf.nest.flatten(second)))


def assert_close(first, second, tolerance=1e-5, place=""):
    """Two dicts of dicts of arrays or numbers have equal keys and nearly equal values."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), place
        for key in first:
            assert_close(first[key], second[key], tolerance, f"{place} {key}")
    else:
        np.testing.assert_allclose(first, second, rtol=tolerance, atol=tolerance, err_msg=place)


def gradients_by_network(method, batch):
    """{term: {role: the term's gradients over all weights of that network}} in the step that comes next.

    A gradient is None where nothing leads from the weights to the term. Networks that an optimizer moves, but not in
    the move of this term, are left out: they are fixed in it, as GCT's flaw detector when the tasks learn through it.
    """
    method.enter(steps_done(method), lambda: [])
    held = all_networks(method)
    found = {}

    def differentiate(losses, networks, optimizer):
        moved = {id(network) for network in networks}
        variables = {role: [variable.value for variable in network.weights] for role, network in held.items()
                     if id(network) in moved or not network.trainable}  # fmt: skip
        with tf.GradientTape(persistent=True) as tape:
            terms, extras = losses()
        for name, term in terms.items():
            found[name] = tape.gradient(term, variables)
        return terms, extras

    method.minimize = differentiate
    try:
        method.train_step(streamed(method, batch))
    finally:
        del method.minimize
    return found


def reached(gradients):
    """The roles whose weights have a gradient: {"student_1", ...}."""
    return {role for role, values in gradients.items() if any(value is not None for value in values)}
