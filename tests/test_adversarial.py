"""AdvSSL: its terms against a NumPy reading of the paper, its warm-up, and who learns what from the discriminator."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.mutual_for_tests import cross_entropy, softmax
from tests.networks_for_tests import (
    CLASSES,
    QUIET,
    VOID,
    make_batch,
    make_method,
    same,
    snapshot,
    step,
    tiny_network,
)
from tests.test_losses import SHAPE, both, slow_mean, some_valid
from tfssl import losses
from tfssl.heads import discriminator
from tfssl.methods.adversarial import Adversarial
from tfssl.tasks import Segmentation


def make(**options):
    method = make_method("adversarial", **{"discriminator_width": 4, "warm_up": 0, "rate": 0.02, **QUIET, **options})
    last = method.discriminator.get_layer("convolution_5")
    last.kernel.assign(5 * last.kernel)  # so that images are believed to different degrees
    return method


def test_losses():
    real, fake = (np.random.default_rng(seed).normal(0, 2, SHAPE).astype("float32") for seed in (1, 2))
    known = some_valid()

    def d(logits):
        return 1 / (1 + np.exp(-np.float64(logits)))

    found = both(losses.discrimination, real, fake, known)
    assert found == pytest.approx(slow_mean(lambda p: -np.log(d(real[p])) - np.log(1 - d(fake[p])), known), rel=1e-5)
    found = both(losses.adversarial, fake, known)
    assert found == pytest.approx(slow_mean(lambda p: -np.log(d(fake[p])), known), rel=1e-5)
    nothing = np.zeros(SHAPE, bool)
    assert float(losses.discrimination(real, fake, nothing)) == float(losses.adversarial(fake, nothing)) == 0


def judge(method, prediction):
    small = method.discriminator(np.float32(prediction))
    return tf.image.resize(small, prediction.shape[1:3]).numpy()[..., 0].astype("float64")


@pytest.mark.parametrize(
    "options",
    [{}, {"threshold": 0.5, "semi_weight": 2.0},
     {"labeled_adversarial_weight": 0.5, "unlabeled_adversarial_weight": 0.25}],
    ids=str,
)  # fmt: skip
def test_the_step_is_what_the_paper_says(options):
    method, batch = make(**options), make_batch()
    image, label, weak, valid = (np.array(tensor) for tensor in (*batch["labeled"], *batch["unlabeled"][:2]))
    logits = np.array(method.network(np.concatenate([image, weak]), training=True)["logits"], "float64")
    p, known = softmax(logits), label != VOID
    judged = judge(method, p)
    believed = 1 / (1 + np.exp(-judged[4:])) > options.get("threshold", 0.2)
    own = -np.log(p[4:].max(-1))  # eq. 5: the cross-entropy with the network's own hard label
    truth = judge(method, np.eye(len(CLASSES))[np.where(known, label, 0)] * known[..., None])
    expected = {
        "supervised": cross_entropy(label, logits[:4]),
        "adversarial_labeled": options.get("labeled_adversarial_weight", 0.01) * softplus(-judged[:4])[known].mean(),
        "adversarial_unlabeled": options.get("unlabeled_adversarial_weight", 1e-3)
        * softplus(-judged[4:])[valid].mean(),
        "semi": options.get("semi_weight", 0.1) * (believed * own)[valid].mean(),
        "discriminator": (softplus(-truth) + softplus(judged[:4]))[known].mean(),
        "used_pixels": believed[valid].mean(),
    }
    logged = step(method, batch)
    assert logged.keys() == expected.keys()
    for name, value in expected.items():
        assert logged[name] == pytest.approx(value, rel=2e-3, abs=1e-6), name
    assert 0 < expected["used_pixels"] < 1 or not options.get("threshold")


def softplus(value):
    return np.log1p(np.exp(value))


def test_the_warm_up_sees_no_unlabeled_image():
    method, other = (make(warm_up=0.5, steps=8) for _ in range(2))
    assert [(first, function) for first, function, _ in method.phases()] == [
        (0, method.learn_labeled), (4, method.learn)
    ]  # fmt: skip
    batch = make_batch()
    garbage = [tf.fill(view.shape, np.nan) for view in batch["unlabeled"] if view.dtype == tf.float32]
    logged = step(method, batch)
    assert logged == step(other, {**batch, "unlabeled": (garbage[0], batch["unlabeled"][1], *garbage[1:])})
    assert set(logged) == {"supervised", "adversarial_labeled", "discriminator"}
    assert same(snapshot(method), snapshot(other)) and len(make().phases()) == 1


def test_roles_and_optimizers():
    plain = Adversarial([tiny_network()], Segmentation(CLASSES), steps=10, discriminator_width=2)
    assert list(plain.roles) == ["network"] and plain.minimised == [plain.network]
    assert plain.warm_up == 2 and len(plain.phases()) == 2  # a quarter of 10
    assert list(make(ema_decay=0.9).roles) == ["average", "network"]
    (optimizer,) = plain.further_optimizers.values()
    assert isinstance(optimizer, keras.optimizers.Adam) and float(optimizer.learning_rate) == pytest.approx(1e-4)
    assert [id(v) for v in optimizer._trainable_variables] == [id(v) for v in plain.discriminator.trainable_variables]


def test_the_discriminator_is_that_of_the_paper():
    network = discriminator(21)
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [(layer.filters, layer.strides, layer.kernel_size) for layer in convolutions] == [
        (filters, (2, 2), (4, 4)) for filters in (64, 128, 256, 512, 1)
    ]
    assert {layer.negative_slope for layer in network.layers if isinstance(layer, keras.layers.LeakyReLU)} == {0.2}
    assert network(tf.zeros([1, 96, 65, 21])).shape == (1, 3, 3, 1)
