"""Teachers against the closed form of an exponential moving average, and their being networks of their own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.checkpoints import Checkpoints
from tfssl.ema import follow, twin, warmed_up
from tfssl.memory import Prototypes


@keras.saving.register_keras_serializable(package="tests")
class Counter(keras.layers.Layer):
    """Holds a whole number, which no average can be taken of."""

    def build(self, shape):
        self.count = self.add_weight(name="count", shape=(), dtype="int32", initializer="ones", trainable=False)

    def call(self, inputs):
        return inputs


def network(seed=0):
    """A network within a network, as the library's are: convolution, batch norm, counter; convolution."""
    keras.utils.set_random_seed(seed)
    inside = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(4, 3, use_bias=False),
                               keras.layers.BatchNormalization(), Counter()])  # fmt: skip
    image = keras.Input((None, None, 3))
    return keras.Model(image, keras.layers.Conv2D(2, 1)(inside(image)))


def is_statistic(variable):
    return variable.name.startswith("moving")


def set_randomly(network, seed):
    random = np.random.default_rng(seed)
    for variable in network.weights:
        if variable.dtype == "float32":
            variable.assign(random.normal(0, 2, variable.shape).astype("float32"))
        else:
            variable.assign(seed)


def test_a_twin_is_equal_and_shares_nothing():
    source = network()
    set_randomly(source, 1)
    copy = twin(source, name="teacher")
    assert copy.name == "teacher"
    assert len(copy.weights) == len(source.weights) == 8  # two kernels, a bias, four of the batch norm, the counter
    for mine, theirs in zip(copy.weights, source.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert not {id(v) for v in copy.variables} & {id(v) for v in source.variables}
    before = copy.get_weights()
    set_randomly(source, 2)
    for mine, old, theirs in zip(copy.weights, before, source.weights, strict=True):
        np.testing.assert_array_equal(mine, old)
        assert not np.array_equal(mine, theirs)


def test_no_gradient_and_no_optimizer_reaches_a_twin():
    source = network()
    copy = twin(source)
    assert copy.trainable_weights == [] and copy.trainable_variables == []
    assert len(source.trainable_weights) == 5  # the source learns on
    image = tf.random.stateless_uniform([2, 5, 5, 3], [0, 1])
    np.testing.assert_array_equal(copy(image, training=False), source(image, training=False))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(copy(image, training=False))
    gradients = tape.gradient(loss, [variable.value for variable in source.trainable_variables])
    assert gradients == [None] * 5


@pytest.mark.parametrize("statistics", ["copy", "average"])
def test_closed_form_after_several_steps(statistics):
    source = network()
    target = twin(source)
    set_randomly(target, 9)
    decay, start, history = 0.8, target.get_weights(), []
    for step in range(4):
        set_randomly(source, step)
        history.append(source.get_weights())
        follow(target, source, decay, statistics)
    shares = (1 - decay) * decay ** np.arange(3, -1, -1)
    statistics_seen = 0
    for number, variable in enumerate(target.weights):
        found, values = variable.numpy(), [weights[number] for weights in history]
        if variable.dtype == "int32":
            assert found == 9  # left alone
        elif statistics == "copy" and is_statistic(variable):
            statistics_seen += 1
            np.testing.assert_array_equal(found, values[-1])
        else:
            wanted = decay**4 * start[number] + sum(s * v for s, v in zip(shares, values, strict=True))
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert statistics_seen == (2 if statistics == "copy" else 0)


def test_statistics_are_averaged_by_default_and_the_source_is_left_alone():
    source = network()
    target = twin(source)
    set_randomly(source, 3)
    before, kept = source.get_weights(), target.get_weights()
    follow(target, source, 1.0)
    for variable, mine, theirs, old in zip(source.weights, target.weights, before, kept, strict=True):
        np.testing.assert_array_equal(variable, theirs)
        np.testing.assert_array_equal(mine, old)  # a decay of 1 keeps all
        assert variable.dtype != "float32" or not np.array_equal(mine, theirs)


def test_follow_in_a_graph_with_a_decay_that_changes():
    source = network()
    target = twin(source)
    compiled = tf.function(lambda step: follow(target, source, warmed_up(0.999, step)))
    kernels = []
    for step in range(5):
        set_randomly(source, step)
        kernels.append(source.get_weights()[0])
        compiled(tf.constant(step))
        np.testing.assert_allclose(target.get_weights()[0], np.mean(kernels, 0), rtol=1e-4, atol=1e-5)
    assert len(kernels) == 5 and compiled.experimental_get_tracing_count() == 1


def test_networks_of_another_build_cannot_be_followed():
    other = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(4, 3, use_bias=False)])
    with pytest.raises(ValueError, match="zip"):
        follow(twin(network()), other, 0.5)


def test_warmed_up():
    found = [float(warmed_up(0.9, updates)) for updates in (0, 1, 3, 8, 9, 10, 1000)]
    assert found == pytest.approx([0, 1 / 2, 3 / 4, 8 / 9, 0.9, 0.9, 0.9])
    assert float(warmed_up(0.5, tf.constant(7, tf.int64))) == 0.5


class Holder(keras.Model):
    """Networks and prototypes in lists and meters in a dictionary, as RobustMutual holds them."""

    def __init__(self, seed):
        super().__init__()
        self.students = [network(seed), network(seed + 1)]
        self.teachers = [twin(student) for student in self.students]
        self.prototypes = [Prototypes(3, 4), Prototypes(3, 4)]
        self.trackers = {"loss": keras.metrics.Mean()}
        self.built = True
        self.compile(optimizer=keras.optimizers.SGD())
        self.optimizer.build(self.trainable_variables)

    @property
    def optimizers(self):
        return [self.optimizer]

    def everything(self):
        return [*self.weights, *self.trackers["loss"].variables, *self.optimizer.variables]


def restored_from(saved, folder):
    """The paths of what is not the same in another Holder after restoring what this one saved."""
    for number, variable in enumerate(saved.everything()):
        variable.assign(tf.cast(tf.fill(variable.shape, number + 1), variable.dtype))
    Checkpoints(saved, folder).save(1)
    restored = Holder(10)
    assert Checkpoints(restored, folder).restore()
    return [mine.path for mine, theirs in zip(restored.everything(), saved.everything(), strict=True)
            if not np.array_equal(mine, theirs)]  # fmt: skip


def test_checkpoints_hold_networks_prototypes_and_optimizer(tmp_path):
    """tf.train.Checkpoint(method) alone leaves out, without a word, what Keras models hold in lists."""
    lost = restored_from(Holder(0), tmp_path)
    assert [path for path in lost if not path.startswith("mean")] == []


def test_checkpoints_hold_the_meters(tmp_path):
    """Checkpoints' docstring says that they are saved; `method.variables` does not have metrics' variables."""
    assert restored_from(Holder(0), tmp_path) == []
