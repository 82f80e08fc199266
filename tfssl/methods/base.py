"""What every method shares: networks with roles, moves that minimise, and phases of training."""

import itertools

import keras
import numpy as np
import tensorflow as tf

from tfssl import ema, mixing, optimizers, randomness, soundness
from tfssl.errors import UserError
from tfssl.methods import parts, replicas
from tfssl.methods.gradient_shares import gradient_sizes, share_of
from tfssl.methods.many_workers import ManyWorkers
from tfssl.schedules import Polynomial


class SemiSupervised(ManyWorkers):
    """A Keras model whose `train_step` is a method's update of several networks.

    A page sets, as class attributes, what it asks of the others: `learners`, how many networks it is given;
    `strong_views`, how many strong views of each unlabeled image; `needs_classes`, whether the task must be one of
    classes; `uses_unlabeled`; `turns`, whether it turns images by 90 degrees, so that crops must be square; `terms`,
    the names of the losses it minimises; `watched`, further numbers it logs. In its constructor it gives `roles`, all
    networks by name, the one that ships first; and where it has them `heads`, further networks by name that predict no
    label (projections, detectors), `guides`, the networks that tell labels, `apart`, those that must not become equal
    where these are not the guides, `memories`, what it remembers between steps, `mix`, how `mixed` mixes unlabeled
    images, and `warm_up`, how many steps `learn_labeled` makes before `learn` does. A network that no optimizer moves
    is not trainable. Where the number of networks depends on an option of the page, it overrides `learners_of`, and
    gives the constructor here its `terms`.
    """

    learners = 1
    strong_views = 0
    needs_classes = True
    uses_unlabeled = True
    turns = False
    terms = ()
    watched = ()
    guides = ()
    apart = ()
    mix = "none"
    warm_up = 0

    def __init__(self, task, *, steps, seed=0, xla=False, probe_every=0, terms=None):
        """probe_every: steps between two measurements of the gradient shares of the terms, 0: none; terms: where they
        depend on options. What trains the method may set `parts`, in how many a step does its batch."""
        super().__init__()
        keep_order()
        self.terms = terms or self.terms
        self.task, self.steps, self.seed, self.xla, self.probe_every = task, steps, seed, xla, probe_every
        self.parts = 1
        self.roles, self.heads, self.memories, self.further_optimizers = {}, {}, [], {}
        self.shares = tuple(share_of(term) for term in self.terms) if probe_every and len(self.terms) > 1 else ()
        self.trackers = {name: replicas.Mean(name=name) for name in self.logged}
        self.checked = (*self.terms, "gradients", "batch-norm statistics", "memories")
        self.faults = keras.Variable(np.zeros(3 + len(self.checked)), trainable=False, dtype="float32", name="faults")
        self.step_function = None

    # What a page gives.

    @classmethod
    def learners_of(cls, options):
        """How many networks a page is given under these options of it, the keyword arguments of its constructor."""
        return cls.learners

    @property
    def logged(self):
        """All that a row of the history holds."""
        return (*self.terms, *self.watched, *self.shares)

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

    @property
    def scored(self):
        """{name: image -> {"logits"}}, all that evaluation scores: the networks, and what they predict together."""
        return self.roles

    def phases(self):
        """[(first step, step function, what to do once before it, or None), ...] in order of the first step."""
        after = (self.warm_up, self.learn, None)
        return [(0, self.learn_labeled, None), after] if self.warm_up else [after]

    def restarts(self):
        """The steps at which the learning-rate schedule starts anew, the first of them 0."""
        return [0]

    def begins(self, term):
        """The step from which on a term that is exactly 0 is a fault, of those that take part in the step."""
        return 0

    def cautions(self):
        """Sentences for the user before training: settings that leave a part of the method without effect."""
        return []

    def pseudo_labels(self, image):
        """What this method takes for the label of unlabeled images [B,H,W,3]: int [B,H,W], or None if it has none.

        Of every pixel: of those too that it leaves out as not sure enough.
        """
        return self.task.decode(self.guides[0](image, training=False)["logits"]) if self.guides else None

    def coupling(self, image):
        """How unlike the networks are on images that must not become equal, a scalar: the least total variation of
        two of them; None where there are no two."""
        networks = self.apart or self.guides
        if len(networks) < 2:
            return None
        told = [self.task.activation(network(image, training=False)["logits"]) for network in networks]
        pairs = itertools.combinations(told, 2)
        return tf.reduce_min([tf.reduce_mean(self.task.difference(*pair)) for pair in pairs])

    def refuse_batch(self, crop, labeled, unlabeled):
        """A UserError where so many images of crop (height, width) on each device are not what it can learn from."""
        if self.turns and len(set(crop)) > 1:
            raise UserError(f"data.crop is {list(crop)}: the method turns images by 90 degrees, so give both sides the "
                            "same length")  # fmt: skip
        if self.mixes and unlabeled < 2:
            raise UserError("training.unlabeled_batch: this method mixes images, so it needs two on each device and in "
                            f"each of the training.accumulate parts, not {unlabeled}")  # fmt: skip

    # What a page uses.

    def key(self):
        """The random key of this step on this replica."""
        return randomness.step_key(self.seed, self.optimizer.iterations)

    @property
    def mixes(self):
        """Whether it needs two unlabeled images on each replica."""
        return self.mix in ("cutmix", "classmix")

    def mixed(self, key, image, *others, label=None, labeled=None):
        """(image, *others), each image mixed with another of the batch by one mask for all, as `mix` says; label: the
        classes [B, H, W] by which ClassMix cuts; labeled: (images, labels) of which "paste" pastes."""
        known = {"classes": self.task.channels, "ignore_index": self.task.ignore_index}
        if self.mix == "classmix":
            return mixing.classmix(key, label, image, *others, **known)
        if self.mix == "paste":
            return mixing.paste(key, *labeled, image, *others, **known)
        return mixing.cutmix(key, image, *others) if self.mix == "cutmix" else (image, *others)

    def follow(self, target, source, decay, *options):
        """ema.follow, once in a step: not after those parts of a batch whose gradients only add up. A step that is
        not finite moves it by nothing."""
        if parts.last():
            soundness.remember(target.weights)
            ema.follow(target, source, soundness.unless_spoiled(tf.cast(decay, tf.float32), 1.0), *options)

    def minimize(self, losses, networks, optimizer):
        """One optimizer step on the sum of the loss terms over the trainable variables of `networks`.

        losses() returns (terms, extras): a dict of scalars to minimise, and anything else that is wanted outside.
        All it does, teachers' passes and mixing included, is one compiled part under XLA; the all-reduce and the
        optimizer stay outside of it. The sum is divided once by the number of replicas, because optimizers sum. Where
        anything of it is not finite the step leaves no trace (soundness.py).
        """
        variables = [variable for network in networks for variable in network.trainable_variables]
        count = tf.distribute.get_strategy().num_replicas_in_sync

        # of the move's own optimizer: the first one's has counted this step already when a second move begins
        probe = optimizer.iterations % self.probe_every == 0 if self.shares else None
        judged, before = soundness.current(), soundness.held(soundness.moving_statistics(*networks))

        def differentiate():
            with tf.GradientTape(persistent=probe is not None) as tape:
                terms, extras = losses()
                total = tf.add_n(list(terms.values())) / count
                scaled = optimizer.scale_loss(total)
            sizes = gradient_sizes(tape, terms, networks, probe) if probe is not None else {}
            gradients = tape.gradient(scaled, [variable.value for variable in variables])
            measured = soundness.measures(networks, gradients, extras, optimizer) if judged else {}
            return terms, extras, sizes, gradients, measured

        if self.xla:
            differentiate = tf.function(differentiate, jit_compile=True)
        terms, extras, sizes, gradients, measured = differentiate()
        for network in networks:
            replicas.average_statistics(network)
        if judged:
            judged.judge({**terms, **measured})
            judged.unless_sound(lambda: soundness.put_back(before))
            judged.taken_back_by(lambda: soundness.put_back(before))  # where a later move is not finite
        together = tf.add_n(list(sizes.values())) if sizes else None  # of this move: others teach other networks
        shares = {share_of(term): tf.math.divide_no_nan(size, together) for term, size in sizes.items()}
        self.count(shares, tf.cast(probe, tf.float32) if shares else 1.0)
        gradients = parts.summed(gradients)
        if parts.last() and judged:
            judged.apply(optimizer, gradients, variables)
        elif parts.last():
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return terms, extras

    def own_adam(self, head, rate):
        """Adam over one head with a rate of its own that decays as all do: for what judges the networks."""
        optimizer = optimizers.scaled(keras.optimizers.Adam(Polynomial(rate, [0, self.steps])))
        optimizer.build(head.trainable_variables)
        return optimizer

    def track(self, terms, **watched):
        """Log the terms and the watched numbers of this step, their means over replicas; what train_step returns."""
        self.count({**terms, **watched})
        known = {*terms, *watched, *(share_of(term) for term in terms)}
        return {name: self.trackers[name].result() for name in self.logged if name in known}

    def count(self, numbers, weight=1.0):
        """Take numbers, or rather their means over replicas, into the means that are logged under their names, unless
        the step is not finite."""
        for name, value in replicas.mean_of_numbers(numbers).items():
            tracker, value = self.trackers[name], tf.cast(value, tf.float32)
            soundness.remember(tracker.variables)
            tracker.update_state(soundness.unless_spoiled(value, 0.0), soundness.unless_spoiled(weight, 0.0))

    # What training uses.

    @property
    def megabytes(self):
        """What the memories take on each device."""
        return sum(memory.megabytes for memory in self.memories)

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

    def train_step(self, batch):
        with soundness.step(self.checked, len(self.optimizers) * self.parts) as judged:
            once = self.parts == 1
            logged = self.step_function(batch) if once else parts.in_parts(self.step_function, batch, self.parts)
            judged.end(self.faults, self.optimizer.iterations)
        return logged

    def call(self, image, training=False):
        return self.deployed(image, training=training)


def keep_order():
    """Switch off the pass of TensorFlow that lets a variable be written before it is read, in this whole process.

    Without XLA a network is read by one operation and moved by another, and only a control dependency between the two
    says that a teacher speaks before it follows. Of these Grappler's dependency pass loses some (TensorFlow 2.21): in
    CPS, direct mutual teaching and CTT a network could be read while it was moved, and two equal runs would part.
    """
    tf.config.optimizer.set_experimental_options({"dependency_optimization": False})


def refuse_equal(networks):
    """Two equal networks would stay one: they agree always, and have nothing to tell each other."""
    weights = [network.get_weights() for network in networks]
    for (i, first), (j, second) in itertools.combinations(enumerate(weights, 1), 2):
        if len(first) == len(second) and all(map(np.array_equal, first, second)):
            which = "the two learners" if len(weights) == 2 else f"learners {i} and {j}"
            raise UserError(f"networks: {which} have equal weights; give them different seeds or architectures")


def chain(*batches):
    """Images of several streams as one batch, for one forward pass."""
    return tf.concat(batches, axis=0)


def unchain(chained, *batches):
    """The parts of what came of `chain(*batches)`. The gradient of a split is cheap, that of slices a sum of zeros."""
    return tf.split(chained, [batch.shape[0] for batch in batches])
