"""A step whose batch is too large for the memory: its parts one after the other, their gradients added up.

Each part is to the method what a replica's share of a batch is: losses are means within it, batch norm and mixing see
it alone, and its random keys are those of a replica of that number. Networks move once, after the last part: what a
method computes between two moves it computes, in the parts before, of networks that the first has not moved yet (GTA).
Memories take each part's share when it comes.
"""

import contextlib
import threading

import tensorflow as tf

from tfssl import randomness

_current = threading.local()  # MirroredStrategy traces each replica in a thread of its own


class _State:
    def __init__(self, number, count, sums):
        self.last, self.count, self.sums, self.move = number == count - 1, count, sums, 0


def in_parts(step, batch, count):
    """What `step` returns of the last of `count` equal parts of a batch (a structure of tensors [B, ...])."""
    sums, result = {}, None
    for number in range(count):
        with _part(number, count, sums), tf.control_dependencies(_ended(sums)):
            result = step(tf.nest.map_structure(lambda values, n=number: _cut(values, n, count), batch))
    return result


@contextlib.contextmanager
def _part(number, count, sums):
    _current.state = _State(number, count, sums)
    try:
        with randomness.part(number, count):
            yield
    finally:
        _current.state = None


def _ended(sums):
    """What must be there before the next part begins, or all would be in memory at once."""
    return [gradient for gradients in sums.values() for gradient in gradients if gradient is not None]


def _cut(values, number, count):
    size = values.shape[0] // count
    return tf.identity(values[number * size : (number + 1) * size])


def last():
    """Whether networks move now: outside of parts, and in the last one."""
    state = getattr(_current, "state", None)
    return state is None or state.last


def summed(gradients):
    """The gradients of a move over all parts so far: their mean in the last part. Outside of parts as they are."""
    state = getattr(_current, "state", None)
    if state is None:
        return gradients
    before = state.sums.get(state.move)
    if before is not None:
        gradients = [None if one is None else one + other for one, other in zip(before, gradients, strict=True)]
    state.sums[state.move] = gradients
    state.move += 1
    return [None if one is None else one / state.count for one in gradients] if state.last else gradients
