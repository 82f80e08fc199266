"""The prototypes' moving average (RML eq. 11) against its closed form and a slow loop."""

import numpy as np
import pytest
import tensorflow as tf

from tfssl.memory import Prototypes

CLASSES, CHANNELS = 3, 4


def images(count, seed=0):
    """Class means of `count` images, and which classes each shows."""
    random = np.random.default_rng(seed)
    present = (random.uniform(size=(count, CLASSES)) < 0.6).astype("float32")
    means = random.normal(0, 2, (count, CLASSES, CHANNELS)).astype("float32") * present[..., None]
    return means, present


def memory(**arguments):
    return Prototypes(CLASSES, CHANNELS, **arguments)


def slow_update(means, present, momentum, bias_corrected):
    """Eq. 11, image by image, class by class, in float64 from zero."""
    eta, seen = np.zeros((CLASSES, CHANNELS)), np.zeros(CLASSES)
    for image in range(len(means)):
        for k in range(CLASSES):
            if present[image, k]:
                keep = min(1 - 1 / (seen[k] + 1), momentum) if bias_corrected else momentum
                eta[k] = keep * eta[k] + (1 - keep) * means[image, k]
                seen[k] += 1
    return eta, seen


@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.9999])
@pytest.mark.parametrize("bias_corrected", [False, True])
def test_updates(momentum, bias_corrected):
    means, present = images(12)
    prototypes = memory(momentum=momentum, bias_corrected=bias_corrected)
    for start in range(0, 12, 4):
        prototypes.update(tf.constant(means[start : start + 4]), tf.constant(present[start : start + 4]))
    wanted, seen = slow_update(means, present, momentum, bias_corrected)
    np.testing.assert_allclose(prototypes.value, wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(prototypes.seen, seen)


def test_closed_form_of_equation_11():
    means = np.random.default_rng(1).normal(0, 2, (6, CLASSES, CHANNELS)).astype("float32")
    start = np.random.default_rng(2).normal(0, 2, (CLASSES, CHANNELS)).astype("float32")
    prototypes = memory(momentum=0.8, bias_corrected=False)
    prototypes.value.assign(start)
    prototypes.update(tf.constant(means), tf.ones([6, CLASSES]))
    shares = 0.2 * 0.8 ** np.arange(5, -1, -1)
    np.testing.assert_allclose(prototypes.value, 0.8**6 * start + np.tensordot(shares, means, 1), rtol=1e-5, atol=1e-6)


def test_with_bias_correction_a_prototype_is_the_plain_mean_of_its_images():
    means, present = images(10)
    prototypes = memory()
    prototypes.update(tf.constant(means), tf.constant(present))
    for k in range(CLASSES):
        assert 2 <= present[:, k].sum() < 10
        np.testing.assert_allclose(prototypes.value[k], means[present[:, k] > 0, k].mean(0), rtol=1e-5, atol=1e-6)


def test_an_absent_class_keeps_its_prototype_to_the_bit():
    means, _ = images(5, seed=3)
    present = np.ones((5, CLASSES), "float32")
    present[:, 1] = 0
    means[:, 1] = np.nan  # nothing of it may be used
    for bias_corrected in (False, True):
        prototypes = memory(momentum=0.9, bias_corrected=bias_corrected)
        before = np.random.default_rng(4).normal(0, 1, (CLASSES, CHANNELS)).astype("float32") / 3
        prototypes.value.assign(before)
        prototypes.seen.assign([2.0, 3.0, 4.0])
        prototypes.update(tf.constant(means), tf.constant(present))
        after = prototypes.value.numpy()
        assert after[1].tobytes() == before[1].tobytes() and prototypes.seen.numpy()[1] == 3
        assert (after[[0, 2]] != before[[0, 2]]).all()


def test_momentum_one_freezes():
    before = np.float32(np.random.default_rng(5).normal(0, 1, (CLASSES, CHANNELS)))
    prototypes = memory(momentum=1.0, bias_corrected=False)
    prototypes.value.assign(before)
    prototypes.update(*map(tf.constant, images(6)))
    np.testing.assert_array_equal(prototypes.value, before)


def test_a_full_pass_is_the_plain_mean_whatever_the_momentum():
    means, present = images(40)
    full, usual = memory(momentum=0.5), memory(momentum=0.5)
    full.update(tf.constant(means), tf.constant(present), cumulative=True)
    usual.update(tf.constant(means), tf.constant(present))
    wanted = (means * present[..., None]).sum(0) / present.sum(0)[:, None]
    np.testing.assert_allclose(full.value, wanted, rtol=1e-4, atol=1e-5)
    assert np.abs(usual.value - wanted).max() > 0.1


def test_a_batch_is_its_images_one_after_another():
    means, present = images(3)
    at_once, one_by_one = memory(momentum=0.3), memory(momentum=0.3)
    at_once.update(tf.constant(means), tf.constant(present))
    for image in range(3):
        one_by_one.update(tf.constant(means[image : image + 1]), tf.constant(present[image : image + 1]))
    np.testing.assert_array_equal(at_once.value, one_by_one.value)


def test_class_permutation():
    means, present = images(8)
    order = [2, 0, 1]
    plain, permuted = memory(), memory()
    plain.update(tf.constant(means), tf.constant(present))
    permuted.update(tf.constant(means[:, order]), tf.constant(present[:, order]))
    np.testing.assert_array_equal(permuted.value, plain.value.numpy()[order])


def test_compiled_and_eager_updates_are_equal():
    means, present = images(4)
    eager, compiled = memory(momentum=0.6), memory(momentum=0.6)
    eager.update(tf.constant(means), tf.constant(present))
    tf.function(compiled.update, jit_compile=True)(tf.constant(means), tf.constant(present))
    np.testing.assert_allclose(compiled.value, eager.value, rtol=1e-6)
    np.testing.assert_array_equal(compiled.seen, eager.seen)


def test_reset_forgets_everything():
    prototypes = memory()
    prototypes.update(*map(tf.constant, images(4)))
    assert prototypes.value.numpy().any() and prototypes.seen.numpy().any()
    prototypes.reset()
    assert not prototypes.value.numpy().any() and not prototypes.seen.numpy().any()


def test_no_optimizer_reaches_prototypes_and_a_checkpoint_holds_them(tmp_path):
    prototypes = memory()
    assert prototypes.trainable_variables == [] and len(prototypes.weights) == 2
    prototypes.update(*map(tf.constant, images(4)))
    path = tf.train.Checkpoint(memory=prototypes).save(tmp_path / "save")
    other = memory()
    tf.train.Checkpoint(memory=other).restore(path).assert_consumed()
    np.testing.assert_array_equal(other.value, prototypes.value)
    np.testing.assert_array_equal(other.seen, prototypes.seen)


def test_replicas_together_take_the_steps_of_one(two_replicas):
    means, present = images(4)
    alone = memory(momentum=0.7)
    alone.update(tf.constant(means), tf.constant(present))
    with two_replicas.scope():
        shared = memory(momentum=0.7)

    @tf.function
    def update(means, present):
        two_replicas.run(shared.update, args=(means, present))

    def halves(array):
        return two_replicas.experimental_distribute_values_from_function(
            lambda context: tf.constant(array[2 * context.replica_id_in_sync_group :][:2])
        )

    update(halves(means), halves(present))
    for variable, wanted in ((shared.value, alone.value), (shared.seen, alone.seen)):
        for copy in two_replicas.experimental_local_results(variable.value):
            np.testing.assert_array_equal(copy, wanted)
