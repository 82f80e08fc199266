"""A step that is not finite leaves nothing behind, whatever of it was not; the run stops there or counts it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.contracts import CONTRACTS, every_method, shown
from tests.networks_for_tests import make_batch, make_method, same, snapshot, step, steps_done, stream
from tests.runs_for_tests import checkpointed, configuration, surroundings, table, write_configuration, write_data
from tfssl import callbacks, errors, fit, memory, runs


def spoiled(batch, part, value=np.nan):
    """The batch with one pixel of its labeled or unlabeled images (all views) not finite."""

    def spoil(tensor):
        if tensor.dtype != tf.float32:
            return tensor
        values = tensor.numpy()
        values[-1, 3, 5, 1] = value
        return tf.constant(values)

    return {**batch, part: tuple(map(spoil, batch[part]))}


def everything(method):
    """All that a step may write, but the counts of steps and of faults."""
    counts = {id(optimizer.iterations) for optimizer in method.optimizers} | {id(method.faults)}
    variables = [*method.variables, *(v for optimizer in method.optimizers for v in optimizer.variables)]
    variables += [v for tracker in method.trackers.values() for v in tracker.variables]
    return {f"{n} {v.path}": v.numpy() for n, v in enumerate(variables) if id(v) not in counts}


def assert_untouched(before, method):
    after = everything(method)
    assert [name for name in before if not np.array_equal(before[name], after[name], equal_nan=True)] == []


@pytest.mark.parametrize("part", ["labeled", "unlabeled"])
@every_method
def test_a_spoiled_step_leaves_nothing_but_its_number(name, part):
    method = shown(name, rate=0.02)
    if part == "unlabeled" and not method.uses_unlabeled:
        part = "labeled"
    step(method, make_batch(0))
    method.reset_trackers()
    before = everything(method)
    step(method, spoiled(make_batch(1), part))
    assert_untouched(before, method)
    assert {int(optimizer.iterations) for optimizer in method.optimizers} == {2}
    total, row, what = callbacks.skipped_steps(method)
    assert (total, row) == (1, 1) and set(what) & set(method.terms)
    logged = step(method, make_batch(2))
    assert all(np.isfinite(value) for value in logged.values()) and callbacks.skipped_steps(method)[:2] == (1, 1)
    assert not same(list(before.values()), list(everything(method).values()))


@pytest.mark.parametrize("name", [
    "gta", *(pytest.param(name, marks=pytest.mark.slow) for name in ("u2pl", "cross_teacher", "robust_mutual"))])
def test_the_way_fit_does_it(name):
    """In one graph for all steps, where reads and writes have an order that nothing in Python gives them."""
    method = shown(name, rate=0.02)
    bad = spoiled(make_batch(1), "labeled", np.inf), spoiled(make_batch(2), "labeled")
    batches = [make_batch(0), *bad, make_batch(3)]
    method.enter(0, list)
    data, seen = iter(stream(method, *batches)), []
    for _ in batches:
        method.train_function(data)
        method.reset_trackers()
        seen.append((everything(method), callbacks.skipped_steps(method)[:2]))
    states, counts = zip(*seen, strict=True)
    assert counts == ((0, 0), (1, 1), (2, 2), (2, 2))
    assert same(list(states[0].values()), list(states[2].values()))
    assert not same(list(states[2].values()), list(states[3].values()))


@pytest.mark.parametrize(("name", "options"), [
    ("gta", {}),
    pytest.param("u2pl", {}, marks=pytest.mark.slow),
    pytest.param("mean_teacher", {"xla": True}, marks=pytest.mark.slow),
    pytest.param("adversarial", {}, marks=pytest.mark.slow),
    pytest.param("cross_teacher", {}, marks=pytest.mark.slow),
])  # fmt: skip
def test_what_one_device_finds_all_obey(name, options, two_replicas):
    """The last image is the second replica's: the first sees nothing of it."""
    method = shown(name, rate=0.02, strategy=two_replicas, **options)
    step(method, make_batch(0))
    method.reset_trackers()
    before = everything(method)
    step(method, spoiled(make_batch(1), "labeled"))
    assert callbacks.skipped_steps(method)[:2] == (1, 1)
    method.reset_trackers()
    assert_untouched(before, method)
    for variable in [*method.variables, *(v for optimizer in method.optimizers for v in optimizer.variables)]:
        first, second = (value.numpy() for value in two_replicas.experimental_local_results(variable.value))
        np.testing.assert_array_equal(first, second, variable.path)


def test_one_replica_of_a_strategy():
    method = shown("gta", rate=0.02, strategy=tf.distribute.MirroredStrategy(["CPU:0"]))
    method.enter(0, list)
    data = iter(stream(method, make_batch(0), spoiled(make_batch(1), "labeled"), make_batch(2)))
    states = []
    for _ in range(3):
        method.train_function(data)
        method.reset_trackers()
        states.append(list(everything(method).values()))
    assert same(states[0], states[1]) and not same(states[1], states[2])
    assert callbacks.skipped_steps(method)[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mean_teacher", "robust_mutual", "gta"])
def test_under_xla(name):
    method = shown(name, rate=0.02, xla=True)
    step(method, make_batch(0))
    method.reset_trackers()
    before = everything(method)
    step(method, spoiled(make_batch(1), "labeled"))
    assert_untouched(before, method)
    assert callbacks.skipped_steps(method)[:2] == (1, 1) and steps_done(method) == 2


@pytest.mark.parametrize("name", ["robust_mutual", "u2pl", "cross_teacher"])
@pytest.mark.parametrize("first", [False, True])
def test_one_part_of_a_batch_spoils_the_whole_step(name, first):
    """What memories took of a part before is taken back."""
    method = shown(name, rate=0.02)
    method.parts = 2
    step(method, make_batch(0))
    method.reset_trackers()
    before = everything(method)
    batch = spoiled(make_batch(1), "labeled")
    if first:
        batch = tf.nest.map_structure(lambda tensor: tf.reverse(tensor, [0]), batch)
    step(method, batch)
    assert_untouched(before, method)


def test_a_gradient_is_not_finite_where_the_loss_is():
    """The root's slope at 0 is infinite, its value is not."""
    method = make_method("supervised", rate=0.02)
    honest = method.task.loss
    method.task.loss = lambda label, logits: honest(label, logits) + tf.sqrt(0 * tf.reduce_sum(logits))
    before = snapshot(method)
    logged = step(method, make_batch())
    assert np.isfinite(logged["supervised"]) and same(before, snapshot(method))
    assert callbacks.skipped_steps(method) == (1, 1, ["gradients"])


def test_statistics_alone():
    """Activations whose variance is too large for float32, normalised to numbers that are finite."""
    method = make_method("supervised", rate=0.02)
    kernel = method.network.get_layer("encoder").get_layer("backbone").trainable_variables[0]
    kernel.assign(kernel * 1e19)
    before = snapshot(method)
    step(method, make_batch())
    assert "batch-norm statistics" in callbacks.skipped_steps(method)[2] and same(before, snapshot(method))


def test_half_precision_leaves_overflowing_gradients_to_the_loss_scale():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        method = make_method("mean_teacher", rate=0.02, **CONTRACTS["mean_teacher"].shown)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    method.optimizer.dynamic_scale.assign(1e30)  # gradients overflow, the loss does not
    before = [weight.numpy() for weight in method.student.trainable_variables]
    step(method, make_batch(0))
    assert callbacks.skipped_steps(method)[0] == 0 and float(method.optimizer.dynamic_scale) < 1e30
    assert same(before, [weight.numpy() for weight in method.student.trainable_variables]) and steps_done(method) == 1
    method.reset_trackers()
    before = everything(method)
    step(method, spoiled(make_batch(1), "labeled"))
    assert_untouched(before, method)
    assert callbacks.skipped_steps(method)[0] == 1 and steps_done(method) == 2


def test_a_queue_written_between_two_moves_is_put_back():
    queues, method = memory.ClassQueues(3, 4, 2), make_method("gta", warm_up=0)
    method.transmit = lambda: queues.push(float(method.optimizer.iterations + 1) * tf.ones([3, 3, 2]),
                                          tf.ones([3, 3], bool))  # fmt: skip
    step(method, make_batch(0))
    before = queues.get_weights()
    step(method, spoiled(make_batch(1), "labeled"))  # the student's: the assistant has moved by then
    assert same(before, queues.get_weights()) and np.all(before[1] == 3)
    step(method, make_batch(0))
    assert not same(before, queues.get_weights())


def test_more_moves_than_optimizers_are_a_mistake_of_the_page():
    method = make_method("supervised")
    method.step_function = lambda batch: [method.learn(batch) for _ in range(2)]
    with pytest.raises(ValueError, match="more moves than optimizers"):
        method.train_step({"labeled": make_batch()["labeled"]})


# Runs.


@pytest.fixture
def path(tmp_path):
    content = configuration(
        write_data(tmp_path / "data"), method={"name": "mean_teacher"},
        training={"steps": 8, "checkpoint_every": 2, "log_every": 2, "evaluate_every": 8},
    )  # fmt: skip
    with surroundings(tmp_path):
        yield write_configuration(tmp_path / "run.json", content)


def spoil_steps(monkeypatch, *steps):
    honest = runs.batches

    def batches(run, start, stop, *shares):
        numbered = honest(run, start, stop, *shares).enumerate(start + 1)

        def spoil(number, batch):
            bad = tf.reduce_any(number == tf.constant(steps, tf.int64))
            image, label = batch["labeled"]
            return {**batch, "labeled": (tf.where(bad, np.nan, image), label)}

        return numbered.map(spoil)

    monkeypatch.setattr(runs, "batches", batches)


def assert_finite(folder):
    assert all(np.isfinite(value).all() for value in checkpointed(folder).values() if value.dtype.kind == "f")


def test_steps_are_skipped_and_counted(path, tmp_path, monkeypatch, capsys):
    spoil_steps(monkeypatch, 3, 4, 7)
    folder = fit.fit(path, ['training.on_non_finite="skip"'], tmp_path / "run")
    rows = table(folder / "history.csv")
    assert [(row["step"], row["skipped"], row["supervised"] != "") for row in rows] == [
        ("2", "0", True), ("4", "2", False), ("6", "2", True), ("8", "3", True)]  # fmt: skip
    assert all(np.isfinite(float(value)) for row in rows for value in row.values() if value)
    told = [line for line in capsys.readouterr().err.splitlines() if "not finite" in line]
    assert len(told) == 1 and told[0].startswith("alarm at step 3: ") and "supervised" in told[0]
    assert [row["kind"] for row in table(folder / "alarms.csv")] == ["not finite"]
    assert_finite(folder)


def test_stopping_keeps_the_save_from_before(path, tmp_path, monkeypatch, capsys):
    spoil_steps(monkeypatch, 4)
    with pytest.raises(SystemExit) as end:
        errors.run(fit.main, [str(path), "--output-dir", str(tmp_path / "run")])
    assert end.value.code == 2 and "error: step 4: supervised" in capsys.readouterr().err
    assert (tmp_path / "run/checkpoints/ckpt-2.index").is_file()
    assert not (tmp_path / "run/checkpoints/ckpt-4.index").exists()
    assert_finite(tmp_path / "run")


def test_too_many_in_a_row_stop_the_run(path, tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "MOST_IN_A_ROW", 3)
    spoil_steps(monkeypatch, 2, 4, 5, 6, 7)
    with pytest.raises(errors.UserError, match="step 6: .* is not finite, as in 2 steps before it"):
        fit.fit(path, ['training.on_non_finite="skip"'], tmp_path / "run")
    assert_finite(tmp_path / "run")
