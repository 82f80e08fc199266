"""A step that is not finite leaves nothing behind but its number.

Whether a step is sound is known move by move: when the gradients of a move are there, its losses, gradients, the
batch-norm statistics of its pass and what it hands to memories are judged, on all devices together. From then on every
write of the step goes by the verdict, at no cost for those that are sound: optimizers move or only count, averages
move by nothing, memories take nothing, meters count nothing. What was written before the verdict, or before that of a
later move, is taken back at the end: the values of before are held, which costs a copy only of what a later move may
have taken back (TensorFlow shares a value that is read until it is written).
"""

import contextlib
import threading

import keras
import tensorflow as tf

_current = threading.local()  # MirroredStrategy traces each replica in a thread of its own


@contextlib.contextmanager
def step(names, moves=1):
    """A step under judgement. names: of all that may be found not finite; moves: how many it has at most."""
    _current.step = begun = Step(names, moves)
    try:
        yield begun
    finally:
        _current.step = None


def current():
    """The step under judgement, None outside of one."""
    return getattr(_current, "step", None)


def unless_spoiled(values, instead):
    """values where the step has been sound so far (or none is under judgement), else `instead`."""
    return values if current() is None else tf.where(current().sound, values, instead)


def remember(variables):
    """Note the values of Keras variables that will now be written, so that the step can take that back."""
    if _may_be_taken_back():
        before = held(variables)
        current().taken_back_by(lambda: put_back(before))


def remember_rows(variable, rows):
    """The same for those rows of a large memory that will now be written: a copy of them alone."""
    if _may_be_taken_back():
        handle = variable.value.handle
        old = tf.raw_ops.ResourceGather(resource=handle, indices=rows, dtype=tf.float32)
        current().taken_back_by(
            lambda: tf.raw_ops.ResourceScatterUpdate(resource=handle, indices=rows, updates=old)
        )


def _may_be_taken_back():
    """Not where no verdict is to come: a value that is read in vain may cost a copy too."""
    return current() is not None and current().judged < current().moves


def held(variables):
    """[(variable, its value now), ...] of Keras variables."""
    return [(variable, tf.convert_to_tensor(variable.value)) for variable in variables]


def put_back(values):
    for variable, value in values:  # of this replica: a mirrored variable cannot be assigned within a condition
        tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=value)


def moving_statistics(*networks):
    """The batch-norm statistics of networks: what a pass in training moves, before any loss is known."""
    weights = [weight for network in networks for weight in network.non_trainable_weights]
    return [weight for weight in weights if weight.dtype.startswith("float")]


def measures(networks, gradients, extras, optimizer):
    """{what: a number that is finite if all of it is} of a move, its loss terms aside.

    Sums of squares of gradients: so those count as not finite too, about 1e19, whose square Adam could not hold. An
    optimizer that scales losses sees to gradients itself.
    """
    own = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    squares = [] if own else [tf.nn.l2_loss(gradient) for gradient in gradients if gradient is not None]
    moving = [tf.reshape(weight, [-1]) for weight in moving_statistics(*networks)]
    handed = [tf.reduce_sum(tf.cast(value, tf.float32)) for value in tf.nest.flatten(extras)
              if tf.is_tensor(value) and value.dtype.is_floating]  # fmt: skip
    return {
        "gradients": tf.add_n(squares) if squares else 0.0,
        "batch-norm statistics": tf.reduce_sum(tf.concat(moving, 0)) if moving else 0.0,
        "memories": tf.add_n(handed) if handed else 0.0,
    }


class Step:
    """`sound`: whether all moves so far were finite, on all devices; `faults`: of each name how often it was not."""

    def __init__(self, names, moves):
        self.names, self.moves, self.judged, self.written = names, moves, 0, []
        self.faults, self.sound = tf.zeros([len(names)]), tf.constant(True)

    def judge(self, measures):
        """Judge one more move by {name: a number that is finite if all it is made of is}."""
        if self.judged == self.moves:
            raise ValueError("a step has more moves than optimizers, so what is written last could not be taken back")
        numbers = tf.stack([tf.cast(measures.get(name, 0.0), tf.float32) for name in self.names])
        bad, replica = tf.cast(~tf.math.is_finite(numbers), tf.float32), tf.distribute.get_replica_context()
        if replica.num_replicas_in_sync > 1:
            bad = replica.all_reduce(tf.distribute.ReduceOp.SUM, bad)
        self.faults += bad
        self.sound = tf.reduce_all(self.faults == 0)
        self.judged += 1

    def taken_back_by(self, undo):
        """Note how to take back what is now written, in the light of the moves judged so far."""
        self.written.append((self.judged, undo))

    def unless_sound(self, act):
        tf.cond(self.sound, _nothing, lambda: _nothing(act()))

    def apply(self, optimizer, gradients, variables):
        """Let the optimizer move the variables if the step is sound, else count the step."""
        remember(variables)
        remember([variable for variable in optimizer.variables if variable is not optimizer.iterations])

        def move(gradients):
            optimizer.apply_gradients(zip(gradients, variables, strict=True))

        def count(_):
            optimizer.iterations.assign_add(1)

        _either(self.sound, move, count, gradients)

    def end(self, record, number):
        """Take back what was written before the last verdict; note a step that is not sound in `record`.

        record: a variable [3 + names]: how many steps were not sound, how many of them in a row, the number of the
        last, and what was not finite in it.
        """

        def take_back():
            for undo in reversed(early):
                undo()
            total, row, last = tf.unstack(tf.convert_to_tensor(record.value)[:3])
            now = tf.cast(number, tf.float32)
            row = tf.where(tf.equal(last, now - 1), row + 1, 1.0)
            put_back([(record, tf.concat([[total + 1, row, now], self.faults], 0))])

        early = [undo for judged, undo in self.written if judged < self.judged]
        self.unless_sound(take_back)


def _nothing(*_):
    return tf.constant(0)


def _either(condition, act, instead, values):
    """act(values) or instead(values) on all replicas; what they do may go across replicas, so the condition does."""
    replica = tf.distribute.get_replica_context()
    if not tf.distribute.has_strategy() or tf.__internal__.distribute.strategy_supports_no_merge_call():
        tf.cond(condition, lambda: _nothing(act(values)), lambda: _nothing(instead(values)))
        return

    def everywhere(strategy, condition, values):
        def on_each(function):
            return _nothing(strategy.extended.call_for_each_replica(function, args=(values,)))

        verdict = strategy.experimental_local_results(condition)[0]  # equal on all
        tf.cond(verdict, lambda: on_each(act), lambda: on_each(instead))

    replica.merge_call(everywhere, args=(condition, values))
