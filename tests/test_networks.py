"""The contract of the networks, their pretrained weights and their noise."""

import functools
import inspect
import math
import pickle

import keras
import numpy as np
import pydantic
import pytest
import tensorflow as tf

from tfssl import networks, randomness
from tfssl.errors import UserError
from tfssl.networks import weights
from tfssl.networks.layers import Dropout, StochasticDepth

NOISE = {"dropout": 0.5, "stochastic_depth": 0.2}
FULL = {"separable": False, "feature_channels": 32, "low_level_channels": 16, "cut": "decoder"}
CASES = {  # network, arguments, stride of the features, their channels, what the image is filled up to multiples of
    "deeplab_v3_plus": ("deeplab_v3_plus", {}, 4, 128, 1),
    "segformer": ("segformer", {}, 4, 128, 1),
    "deeplab_v2": ("deeplab_v2", {"backbone": "resnet50", **NOISE}, 8, 2048, 1),
    "deeplab_v2, features": ("deeplab_v2", {"backbone": "resnet50_caffe", "feature_channels": 24, **NOISE}, 8, 24, 1),
    "deeplab_v3_plus, full": ("deeplab_v3_plus", {"backbone": "resnet50_deep_stem", **FULL}, 4, 48, 1),
    "setr, pup": ("setr", {"encoder": "vit_tiny", "feature_channels": 16, **NOISE}, 2, 16, 16),
    "setr, naive": ("setr", {"encoder": "vit_tiny", "feature_channels": 16, "head": "naive", **NOISE}, 16, 16, 16),
    "dpt": ("dpt", NOISE, 14 / 8, 64, 14),
}  # the U-Net, of other strides and without noise, has a file of its own
NAMES = list(CASES)
LIGHT = NAMES[:2]
CLASSES = 5


def small(case, seed=1, **arguments):
    """A network without pretrained weights."""
    name, own, *_ = CASES[case]
    return networks.build(name, classes=CLASSES, seed=seed, **{"weights": None, **own, **arguments})


def frozen(case):
    """The argument that fixes batch norm, of a network that has some."""
    known = inspect.signature(networks.NETWORKS[CASES[case][0]]).parameters
    return {"batch_norm": "frozen"} if "batch_norm" in known else {}


@pytest.fixture(scope="module")
def built():
    """A function that builds each network once, for the tests that leave it as it is."""
    return functools.cache(small)


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, shape).astype("float32")


def key(number):
    return tf.constant([0, number], tf.int32)


def twin(network):
    clone = keras.models.clone_model(network)
    clone.set_weights(network.get_weights())
    return clone


def forward(network, image, number):
    with randomness.noise(key(number)):
        return network(image, training=True)["logits"].numpy()


@pytest.mark.parametrize("name", NAMES)
def test_contract(built, name):
    network = built(name)
    *_, stride, channels, multiple = CASES[name]
    assert [(tensor.name, tensor.shape, tensor.dtype) for tensor in network.inputs] == [
        ("image", (None, None, None, 3), "float32")
    ]
    for height, width in [(33, 47), (96, 96), (97, 131), (7, 3)]:
        image = images(2, height, width, 3)
        output = network(image, training=False)
        assert set(output) == {"logits", "features"}
        assert output["logits"].shape == (2, height, width, CLASSES)
        height, width = (side + -side % multiple for side in (height, width))
        assert output["features"].shape == (2, math.ceil(height / stride), math.ceil(width / stride), channels)
        assert output["logits"].dtype == tf.float32
        features = network.get_layer("encoder")(image, training=False)
        np.testing.assert_array_equal(features, output["features"])
        logits = network.get_layer("classifier")(features, training=False)
        logits = tf.image.resize(logits, (height, width))[:, : image.shape[1], : image.shape[2]]
        np.testing.assert_allclose(logits, output["logits"], rtol=1e-5, atol=1e-5 * np.abs(logits).max())


@pytest.mark.parametrize("name", NAMES)
def test_arguments_validate_by_their_annotations(name):
    parameters = inspect.signature(networks.NETWORKS[CASES[name][0]]).parameters.values()
    for parameter in parameters:
        check = pydantic.TypeAdapter(parameter.annotation).validate_python
        if parameter.name != "classes":
            assert parameter.kind is parameter.KEYWORD_ONLY
            assert check(parameter.default) == parameter.default
        if parameter.annotation is not bool:
            with pytest.raises(pydantic.ValidationError):
                check(-1)


@pytest.mark.parametrize("name", NAMES)
def test_a_clone_is_another_network_that_computes_the_same(built, name):
    image, network = images(2, 33, 47, 3), built(name)
    clone = twin(network)
    expected = network(image, training=False)["logits"]
    np.testing.assert_array_equal(clone(image, training=False)["logits"], expected)
    np.testing.assert_array_equal(forward(clone, image, 3), forward(twin(network), image, 3))
    assert not {id(variable) for variable in clone.variables} & {id(v) for v in network.variables}
    assert len(networks.head_variables(clone)) == len(networks.head_variables(network))


@pytest.mark.parametrize("name", NAMES)
def test_saves_and_loads(built, name, tmp_path):
    built(name).save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    image = images(1, 33, 47, 3)
    np.testing.assert_array_equal(loaded(image, training=False)["logits"], built(name)(image, training=False)["logits"])


@pytest.mark.parametrize("name", NAMES)
def test_seeds_decide_the_weights(built, name):
    def equal(one, other):
        return [np.array_equal(*pair) for pair in zip(one.get_weights(), other.get_weights(), strict=True)]

    assert all(equal(built(name), small(name)))
    assert not all(equal(built(name), small(name, seed=2)))


@pytest.mark.parametrize("name", NAMES)
def test_an_image_does_not_depend_on_its_batch(built, name):
    batch = images(4, 33, 47, 3)
    together = built(name)(batch, training=False)["logits"]
    alone = built(name)(batch[2:3], training=False)["logits"]
    np.testing.assert_allclose(together[2:3], alone, atol=1e-5 * np.abs(together).max())


@pytest.mark.parametrize("name", NAMES)
def test_backbone_and_head_share_out_the_trainable_variables(built, name):
    network = built(name)
    head = {id(variable) for variable in networks.head_variables(network)}
    backbone = {id(v) for v in network.get_layer("encoder").get_layer("backbone").trainable_variables}
    classifier = {id(variable) for variable in network.get_layer("classifier").trainable_variables}
    assert not head & backbone
    assert head | backbone == {id(variable) for variable in network.trainable_variables}
    assert classifier and classifier <= head  # all of it in DeepLabV2 without features of its own


@pytest.mark.parametrize("name", NAMES)
def test_training_noise_is_a_function_of_the_key(name):
    # without batch norm's statistics, which would carry noise over from call to call
    network, image = small(name, **frozen(name)), images(2, 33, 47, 3)
    first = forward(network, image, 1)
    np.testing.assert_array_equal(first, forward(network, image, 1))
    assert not np.array_equal(first, forward(network, image, 2))
    still = network(image, training=False)["logits"]
    np.testing.assert_array_equal(still, network(image, training=False)["logits"])


@pytest.mark.parametrize("name", NAMES)
def test_no_rate_no_noise(name):
    network, image = small(name, dropout=0.0, stochastic_depth=0.0), images(2, 33, 47, 3)
    np.testing.assert_array_equal(forward(network, image, 1), forward(network, image, 2))
    if frozen(name):  # else it has no batch norm
        assert not np.array_equal(forward(network, image, 1), network(image, training=False)["logits"])


@pytest.mark.parametrize("name", NAMES)
def test_noise_layers_have_numbers_of_their_own(built, name):
    def layers(model):
        for layer in model.layers:
            yield from layers(layer) if isinstance(layer, keras.Model) else [layer]

    numbers = [layer.number for layer in layers(built(name)) if isinstance(layer, Dropout | StochasticDepth)]
    assert len(numbers) > 8 and len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("name", NAMES)
def test_stochastic_depth_modes(built, name):
    def rates(network):
        backbone = network.get_layer("encoder").get_layer("backbone")
        return [layer.rate for layer in backbone.layers if isinstance(layer, StochasticDepth)]

    constant, linear = rates(built(name)), rates(small(name, stochastic_depth_mode="linear"))
    assert set(constant) == {0.2} and len(constant) == len(linear)
    assert linear == sorted(linear) and len(set(linear)) > 6
    assert 0 <= linear[0] < 0.05 < 0.18 < linear[-1] <= 0.2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[2:])
def test_compiles_with_xla(built, name):
    network, image = built(name), images(2, 65, 67, 3)

    def gradient():
        with randomness.noise(None), tf.GradientTape() as tape:
            logits = network(image, training=False)["logits"]
            loss = tf.reduce_mean(logits)
        return logits, *tape.gradient(loss, network.trainable_variables)

    logits, *gradients = tf.function(gradient, jit_compile=True)()
    expected = network(image, training=False)["logits"].numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    assert all(np.all(np.isfinite(one)) for one in gradients)


@pytest.mark.parametrize("name", LIGHT)
def test_gradient_compiles_with_xla(name):
    # A random start on few pixels would not do: there, a millionth more light changes the gradient by half.
    smaller = {"depths": (1, 1, 1, 1)} if name == "segformer" else {}
    network = networks.build(name, classes=CLASSES, seed=1, batch_norm="frozen", **smaller)
    image = images(2, 65, 67, 3)

    def gradient():
        with randomness.noise(None), tf.GradientTape() as tape:
            loss = tf.reduce_mean(network(image, training=True)["logits"] ** 2)
        return [loss, *tape.gradient(loss, network.trainable_variables)]

    compiled = tf.function(gradient, jit_compile=True)()
    for one, other in zip(compiled, gradient(), strict=True):
        assert np.linalg.norm(one - other) < 5e-3 * np.linalg.norm(other) + 1e-5


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_mixed_precision_keeps_logits_in_float32(name, half):
    keras.mixed_precision.set_dtype_policy(f"mixed_{half}")
    try:
        output = small(name)(images(1, 33, 47, 3), training=False)
        assert output["logits"].dtype == tf.float32 and output["features"].dtype == half
    finally:
        keras.mixed_precision.set_dtype_policy("float32")


def test_frozen_batch_norm_stays():
    network = networks.build("deeplab_v3_plus", classes=CLASSES, seed=1, batch_norm="frozen")
    for copy in (network, twin(network)):
        backbone = copy.get_layer("encoder").get_layer("backbone")
        norms = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
        assert len(norms) == 48 and not any(norm.trainable_variables for norm in norms)
        image, before = images(2, 33, 47, 3), [norm.get_weights() for norm in norms]
        with randomness.noise(None):
            training = backbone(image, training=True)
        for one, other in zip(training, backbone(image, training=False), strict=True):
            np.testing.assert_array_equal(one, other)
        for norm, values in zip(norms, before, strict=True):
            np.testing.assert_array_equal(norm.get_weights(), values)
        assert networks.head_variables(copy)  # the head's own batch norms train on


def test_local_batch_norm_follows_the_images():
    network = small("deeplab_v3_plus")
    norm = network.get_layer("encoder").get_layer("backbone").get_layer("bn0")
    before = norm.moving_mean.numpy()
    network(images(2, 33, 47, 3), training=True)
    assert np.all(norm.moving_mean.numpy() != before)


def test_segformer_names_impossible_widths():
    with pytest.raises(UserError, match="embed_dims.*32"):
        networks.build("segformer", classes=2, seed=0, embed_dims=(30, 64, 160, 256))


def test_reading_weights_runs_no_code(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (tmp_path.joinpath("harm").touch, ())

    path = tmp_path / "weights.pth"
    parts = [0, 1001, {}, {"layer.weight": Harmful()}, []]
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in parts))
    with pytest.raises(pickle.UnpicklingError, match="no use for"):
        weights.read_tensors(path)
    assert not tmp_path.joinpath("harm").exists()
