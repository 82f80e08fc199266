"""What every method shares: networks with roles, moves that minimise, and phases of training."""

import keras
import tensorflow as tf

from tfssl import randomness


class SemiSupervised(keras.Model):
    """A Keras model whose `train_step` is a method's update of several networks.

    A page sets, as class attributes, what it asks of the others: `learners`, how many networks it is given;
    `strong_views`, how many strong views of each unlabeled image; `uses_unlabeled`; `mixes`, whether it needs two
    unlabeled images on each replica; `turns`, whether it turns images by 90 degrees, so that crops must be square;
    `terms`, the names of the losses it minimises; `watched`, further numbers it logs. In its constructor it gives
    `roles`, all networks by name, the one that ships first; and where it has them `heads`, further networks by name
    that predict no label (projections, detectors), and `memories`, what it
    remembers between steps. A network that no optimizer moves is not trainable.
    """

    learners = 1
    strong_views = 0
    uses_unlabeled = True
    mixes = False
    turns = False
    terms = ()
    watched = ()

    def __init__(self, task, *, steps, seed=0, xla=False):
        super().__init__()
        self.task, self.steps, self.seed, self.xla = task, steps, seed, xla
        self.roles, self.heads, self.memories, self.further_optimizers = {}, {}, [], {}
        self.trackers = {name: keras.metrics.Mean(name=name) for name in (*self.terms, *self.watched)}
        self.step_function = None

    # What a page gives.

    @property
    def deployed(self):
        """The network that ships."""
        return next(iter(self.roles.values()))

    @property
    def minimised(self):
        """The networks that `self.optimizer` moves."""
        return [network for network in (*self.roles.values(), *self.heads.values()) if network.trainable]

    @property
    def also_minimised(self):
        """{name: networks}: for each an optimizer of the same settings is put into `further_optimizers[name]`.

        An optimizer with settings of its own is made by the page, in its constructor, and put there too.
        """
        return {}

    @property
    def optimizers(self):
        """All of them, the one that counts the steps first."""
        return [self.optimizer, *self.further_optimizers.values()]

    def phases(self):
        """[(first step, step function, what to do once before it, or None), ...] in order of the first step."""
        return [(0, self.learn, None)]

    def restarts(self):
        """The steps at which the learning-rate schedule starts anew, the first of them 0."""
        return [0]

    def pseudo_labels(self, image):
        """What this method takes for the label of unlabeled images [B,H,W,3]: int [B,H,W], or None if it has none."""
        return None

    def coupling(self, image):
        """Total variation between the teachers on images, a scalar; None where there are no two teachers."""
        return None

    # What a page uses.

    def key(self):
        """The random key of this step on this replica."""
        return randomness.step_key(self.seed, self.optimizer.iterations)

    def minimize(self, losses, networks, optimizer):
        """One optimizer step on the sum of the loss terms over the trainable variables of `networks`.

        losses() returns (terms, extras): a dict of scalars to minimise, and anything else that is wanted outside.
        All it does, teachers' passes and mixing included, is one compiled part under XLA; the all-reduce and the
        optimizer stay outside of it. The sum is divided once by the number of replicas, because optimizers sum.
        """
        variables = [variable for network in networks for variable in network.trainable_variables]
        replicas = tf.distribute.get_strategy().num_replicas_in_sync

        def differentiate():
            with tf.GradientTape() as tape:
                terms, extras = losses()
                total = tf.add_n(list(terms.values())) / replicas
                scaled = optimizer.scale_loss(total)
            return terms, extras, tape.gradient(scaled, [variable.value for variable in variables])

        if self.xla:
            differentiate = tf.function(differentiate, jit_compile=True)
        terms, extras, gradients = differentiate()
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        for network in networks:
            average_statistics(network)
        return terms, extras

    def track(self, terms, **watched):
        """Log the terms and the watched numbers of this step; what train_step returns."""
        for name, value in {**terms, **watched}.items():
            self.trackers[name].update_state(value)
        return {name: tracker.result() for name, tracker in self.trackers.items() if name in {**terms, **watched}}

    # What training uses.

    @property
    def metrics(self):
        """None that Keras resets by itself, at each epoch: the log resets the trackers when it has written a row."""
        return []

    def reset_trackers(self):
        for tracker in self.trackers.values():
            tracker.reset_state()

    def enter(self, step, batches):
        """Be ready for `step`: choose its phase, and do once what begins it, if this is its first step.

        batches() gives the data of one epoch, for what a phase must compute before it begins.
        """
        first, function, begin = [phase for phase in self.phases() if phase[0] <= step][-1]
        if begin is not None and step == first:
            begin(batches)
        if self.step_function != function:
            self.step_function = function
            self.make_train_function(force=True)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing: all is built already. Keras 3 would sum a batch over replicas here, and fails on booleans."""

    def train_step(self, batch):
        return self.step_function(batch)

    def call(self, image, training=False):
        return self.deployed(image, training=training)


def average_statistics(network):
    """Give all replicas the mean of their batch-norm statistics, so that every network is equal on all of them."""
    replica = tf.distribute.get_replica_context()
    moving = [weight for weight in network.non_trainable_weights if weight.dtype.startswith("float")]
    if replica is None or replica.num_replicas_in_sync == 1 or not moving:  # a head may have no batch norm
        return
    means = replica.all_reduce(tf.distribute.ReduceOp.MEAN, [tf.convert_to_tensor(weight) for weight in moving])
    for weight, mean in zip(moving, means, strict=True):
        weight.assign(mean)


def chain(*batches):
    """Images of several streams as one batch, for one forward pass."""
    return tf.concat(batches, axis=0)
