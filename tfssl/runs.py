"""A run: what one configuration builds, which is data, networks, method and optimizer."""

import math
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

from tfssl import config, networks, optimizers, selection, strategies
from tfssl.checkpoints import Checkpoints
from tfssl.data.augment import LEAST_SIDE
from tfssl.data.examples import Source
from tfssl.data.sources import RESIZED, SOURCES, task_of
from tfssl.data.streams import paired_stream
from tfssl.errors import UserError
from tfssl.methods import METHODS
from tfssl.schedules import Polynomial
from tfssl.tasks import Regression, Segmentation, shares

FROM_TASK = ("classes", "palette", "ignore_index")  # a source's arguments that the task section gives


@dataclass
class Run:
    """All that training, evaluation and export share."""

    folder: Path
    settings: config.Config
    source: Source | None
    task: Segmentation | Regression
    method: keras.Model
    checkpoints: Checkpoints
    strategy: tf.distribute.Strategy

    @property
    def scored(self):
        """{role: network} of all that is scored, the one first that is reported."""
        return {self.reported: self.method.scored[self.reported], **self.method.scored}

    @property
    def deployed(self):
        """The network that ships: the one that is reported, or where that is no network of its own, the method's."""
        return self.method.roles.get(self.reported, self.method.deployed)

    @property
    def reported(self):
        """The role of the network whose scores are the run's: evaluation.network, else the one that ships."""
        wanted = self.settings.evaluation.network
        if wanted is not None and wanted not in self.method.scored:
            raise UserError(f"evaluation.network is {wanted}, but {self.settings.method.name} has "
                            f"{', '.join(self.method.scored)}")  # fmt: skip
        return wanted or next(iter(self.method.scored))

    @property
    def step(self):
        return int(self.method.optimizer.iterations.numpy())  # a replica's own is no number


def resolve(settings, path):
    """The settings with every default of the named source, networks and method filled in."""
    data = settings.data.model_dump()
    known = {"source", "crop", "weak", "strong", "labeled_view"}
    source = config.choose(SOURCES, data["source"], f"{path}: data.source")
    if settings.task.classes and len(set(settings.task.classes)) < len(settings.task.classes):
        raise UserError(f"{path}: task.classes names a class twice; scores go by the names")
    own = {key: value for key, value in data.items() if key not in known}
    own = config.arguments(source, own, f"{path}: data", skip=FROM_TASK)
    update = {"data": {**{key: data[key] for key in known}, **own}, "networks": []}
    for number, network in enumerate(settings.networks):
        place = f"{path}: networks.{number}"
        function = config.choose(networks.NETWORKS, network.name, f"{place}.name")
        update["networks"].append({"name": network.name, **config.arguments(function, network.model_extra, place)})
    place = f"{path}: method"
    method = config.choose(METHODS, settings.method.name, f"{place}.name")
    given = config.arguments(method.__init__, settings.method.model_extra, place)
    update["method"] = {"name": settings.method.name, **given}
    return config.parse({**settings.model_dump(), **update}, path)


def make_source(settings, original_size=False):
    """The data of resolved settings; whatever is wrong with them is told here, before training."""
    own = dict(settings.data.model_extra)
    if original_size and settings.data.source in RESIZED:
        own["size"] = None
    takes = config.signature_model(SOURCES[settings.data.source]).model_fields
    refuse_other_task(settings)
    if "classes" in takes:
        own |= {key: getattr(settings.task, key) for key in FROM_TASK}
        if not settings.task.classes and takes["classes"].is_required():
            raise UserError("task.classes: name the classes of your labels, in the order of their values")
        _refuse_ignored_class(settings.task.ignore_index, settings.task.classes or ())
    source = SOURCES[settings.data.source](**own)
    refuse_other_labels(settings, source)
    return source


def refuse_other_task(settings):
    name = task_of(settings)
    if settings.task.name != name:
        raise UserError(f"task.name is {settings.task.name}, but the labels of data.source {settings.data.source} are "
                        f"for {name}: set task.name to that")  # fmt: skip


def refuse_other_labels(settings, source):
    """What the task section says of the labels must be so, where the source knows them itself."""
    name, task = settings.data.source, settings.task
    if source.ignore_index not in (None, task.ignore_index):
        raise UserError(f"task.ignore_index is {task.ignore_index}, but labels of data.source {name} mark what is to "
                        f"be ignored by {source.ignore_index}")  # fmt: skip
    for key, given, own in (("classes", task.classes, source.classes), ("palette", task.palette, source.palette)):
        if given and tuple(given) != tuple(own):
            raise UserError(f"task.{key} has {len(given)} entries, which are not the {len(own)} that data.source "
                            f"{name} has of its own; leave task.{key} out")  # fmt: skip


def _refuse_ignored_class(ignore_index, classes):
    if len(classes) > 255:
        raise UserError(f"task.classes: 8-bit labels tell at most 255 classes apart, not {len(classes)}")
    if ignore_index < len(classes):
        raise UserError(f"task.ignore_index is {ignore_index}, the number of the class {classes[ignore_index]!r}; "
                        f"choose one from {len(classes)} to 255")  # fmt: skip


def begun(folder):
    """The settings of the run in a folder, with the defaults of what it did not know; None where there is no run."""
    path = folder / "config.json"
    return resolve(config.load(path), path) if path.is_file() else None


def complete(settings, source, before=None):
    """The settings with what the source decides: the classes, their colours and shares, the scale where none is given,
    and the steps of so many epochs. before: the settings of the run that is continued, which has counted its shares."""
    _refuse_ignored_class(settings.task.ignore_index, source.classes)
    task = settings.task.model_copy(update={"classes": list(source.classes), "palette": list(source.palette)})
    if task.balance and task.shares is None and source.classes:
        counted = before and before.task.shares or shares_of(source.labeled, task)
        task = task.model_copy(update={"shares": counted})
    scale = settings.data.weak.scale or ((0.5, 1.5) if source.resamples else (1.0, 1.0))
    weak = settings.data.weak.model_copy(update={"scale": scale})
    training = settings.training
    if training.epochs is not None:
        learned = "unlabeled" if METHODS[settings.method.name].uses_unlabeled else "labeled"
        count, batch = getattr(source, learned).count, getattr(training, f"{learned}_batch")
        training = training.model_copy(update={"steps": math.ceil(training.epochs * count / batch)})
    data = settings.data.model_copy(update={"weak": weak})
    return settings.model_copy(update={"task": task, "data": data, "training": training})


def shares_of(examples, task):
    """The share of each class in the labels of examples; bad files are passed over, as they are within a graph."""
    read = tf.function(lambda index: examples.label(index), reduce_retracing=True)
    labels = examples.each(lambda index: read(tf.constant(index, tf.int64)).numpy())
    return shares(labels, len(task.classes), task.ignore_index)


def build(settings, folder, source=None, strategy=None):
    """Networks, method and optimizer of resolved settings, nothing restored yet. strategy: one made before."""
    keras.mixed_precision.set_global_policy(settings.training.precision)
    task = make_task(settings.task)
    strategy = strategy or strategies.make(settings.training)
    page = METHODS[settings.method.name]
    if page.needs_classes and not task.has_classes:
        others = ", ".join(name for name, other in METHODS.items() if not other.needs_classes)
        raise UserError(f"method.name: {settings.method.name} learns classes; for task.name {task.name} there are "
                        f"{others}")  # fmt: skip
    training, xla = settings.training, use_xla(settings, strategy.num_replicas_in_sync)
    with strategy.scope():
        learners = make_networks(settings, page.learners_of(settings.method.model_extra), task.channels)
        method = page(learners, task, steps=training.steps, seed=settings.seed, xla=xla,
                      probe_every=training.log_every, **settings.method.model_extra)  # fmt: skip
        rate = Polynomial(training.learning_rate, [*method.restarts(), training.steps],
                          warm_up=training.learning_rate_warm_up)  # fmt: skip
        method.compile(optimizer=make_optimizer(training, rate, method.minimised), jit_compile=False)
        for name, moved in method.also_minimised.items():
            method.further_optimizers[name] = make_optimizer(training, rate, moved)
        method.parts = training.accumulate
        shares = strategy.num_replicas_in_sync * training.accumulate
        method.refuse_batch(settings.data.crop, training.labeled_batch // shares, training.unlabeled_batch // shares)
    if uses_strong(settings, method) and min(settings.data.crop) < LEAST_SIDE:
        raise UserError(f"data.crop is {list(settings.data.crop)}: strong views need {LEAST_SIDE} pixels a side")
    if source is not None and not source.resamples:
        refuse_other_noise(settings, method)
    if source is not None and settings.evaluation.select:
        selection.refuse_reported(source)
    if method.mixes and source is not None and source.unlabeled.count < training.unlabeled_batch:
        raise UserError(f"training.unlabeled_batch is {training.unlabeled_batch}, but there are only "
                        f"{source.unlabeled.count} unlabeled images: one would be mixed with itself")  # fmt: skip
    return Run(folder, settings, source, task, method, Checkpoints(method, folder / "checkpoints"), strategy)


def make_task(section):
    """The task of the configuration's section."""
    if section.name != "regression":
        if section.shares is not None and len(section.shares) != len(section.classes):
            raise UserError(f"task.shares has {len(section.shares)} numbers for {len(section.classes)} classes; leave "
                            "it out to have them counted")  # fmt: skip
        return Segmentation(section.classes, section.ignore_index, section.ohem, section.balance, section.shares)
    for key in ("ohem", "balance"):
        if getattr(section, key):
            raise UserError(f"task.{key} is about classes; for task.name regression leave it out")
    return Regression()


def refuse_other_noise(settings, method):
    """Views must leave noise as it is where to remove it is the task: whole pixels, no other colours, no blur."""
    weak, strong = settings.data.weak, settings.data.strong
    if tuple(weak.scale) != (1, 1) or weak.rotation:
        raise UserError("data.weak: scaling and rotation would change the noise that is to be removed; "
                        "set scale to [1, 1] and rotation to 0")  # fmt: skip
    if uses_strong(settings, method) and (strong.operations or strong.blur or strong.grayscale):
        raise UserError("data.strong: other colours would be another image; set operations, blur and grayscale to 0, "
                        "or choose a method and a data.labeled_view without strong views")  # fmt: skip


def uses_strong(settings, method):
    return method.strong_views or settings.data.labeled_view == "strong"


def make_networks(settings, count, classes):
    """The learners, each from its own seed; a single entry serves for all of them."""
    wanted = list(settings.networks)
    if len(wanted) == 1:
        wanted = wanted * count
    if len(wanted) != count:
        name = settings.method.name
        raise UserError(f"networks: {name} trains {count}, but the list has {len(wanted)}; give "
                        + ("1" if count == 1 else f"1 or {count}"))  # fmt: skip
    return [
        networks.build(network.name, classes=classes, seed=1000 * settings.seed + number, **network.model_extra)
        for number, network in enumerate(wanted)
    ]


def make_optimizer(training, rate, moved):
    return optimizers.build(
        training.optimizer, rate, training.weight_decay,
        [variable for network in moved for variable in network.trainable_variables],
        [variable for network in moved for variable in networks.head_variables(network)],
        training.head_factor,
    )  # fmt: skip


def spread_batches(run, start, stop):
    """The paired batches start..stop-1 over the replicas of a run; each worker makes its own shares of them only."""
    return strategies.spread(run.strategy, lambda *shares: batches(run, start, stop, shares))


def batches(run, start, stop, shares=(0, 1, 1)):
    """The paired batches start..stop-1 of a run, as its method wants them, or shares of them (`paired_stream`)."""
    settings, training = run.settings, run.settings.training
    return paired_stream(
        run.source, seed=settings.seed, start=start, stop=stop, labeled_batch=training.labeled_batch,
        unlabeled_batch=training.unlabeled_batch if run.method.uses_unlabeled else 0,
        strong_views=run.method.strong_views, crop=settings.data.crop, ignore_index=run.task.ignore_index,
        weak=settings.data.weak.model_dump(), strong=settings.data.strong.model_dump(), shares=shares,
        labeled_view=settings.data.labeled_view,
    )  # fmt: skip


def use_xla(settings, replicas):
    """Whether losses and gradients are compiled; "auto" is yes on a GPU, where TensorFlow can."""
    wanted, reason = settings.training.xla, None
    if settings.deterministic:
        reason = "training.xla and deterministic: TensorFlow turns XLA off for determinism; set one to false"
    elif replicas > 1 and any(network.model_extra.get("batch_norm") == "synchronized" for network in settings.networks):
        reason = ("training.xla and networks[].batch_norm synchronized: on several devices TensorFlow cannot compile "
                  "what they say to each other; set training.xla to false or batch_norm to local")  # fmt: skip
    if wanted is True and reason:
        raise UserError(reason)
    return bool(tf.config.list_physical_devices("GPU")) and not reason if wanted == "auto" else wanted


def reopen(folder, overrides=(), data=True, original_size=False):
    """The run of a folder with its newest checkpoint restored. original_size: images keep theirs, whatever training
    resized them to."""
    folder = Path(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: no run there (it has no config.json)")
    settings = resolve(config.load(path, overrides), path)
    source = make_source(settings, original_size) if data else None
    run = build(without_weights(settings), folder, source, strategies.one())  # whatever it was trained on
    run.settings = settings
    if not run.checkpoints.restore():
        raise UserError(f"{folder}: no checkpoint to read in {folder / 'checkpoints'}; train it first")
    take_best(run)
    return run


def take_best(run):
    """Where a network is chosen on held-out images, give the one that ships the weights it had when it was best."""
    if run.settings.evaluation.select:
        selection.Best(run.folder / "checkpoints").restore(run.deployed)


def shipped_step(run):
    """The step of the weights that ship: the last, or where they are chosen the best."""
    best = selection.Best(run.folder / "checkpoints").step if run.settings.evaluation.select else None
    return run.step if best is None else best


def without_weights(settings):
    """The settings with networks that begin at random: what a checkpoint will fill need not be fetched before."""
    bare = [network.model_copy(update={"weights": None}) if "weights" in network.model_extra else network
            for network in settings.networks]  # fmt: skip
    return settings.model_copy(update={"networks": bare})


def reading_size(settings):
    """(height, width) that images are resized to when they are read; None where each keeps its own."""
    return settings.data.model_extra.get("size") if settings.data.source in RESIZED else None


def plain_deployed(run):
    """The network that ships as a float32 network outside any strategy, whatever it was trained as."""
    keras.mixed_precision.set_global_policy("float32")
    values = run.deployed.get_weights()
    for section in run.settings.networks:  # of several the one that it was made as
        known = section.model_extra | ({"weights": None} if "weights" in section.model_extra else {})
        network = networks.build(section.name, classes=run.task.channels, seed=0, **known)
        if [variable.shape for variable in network.weights] == [value.shape for value in values]:
            network.set_weights(values)
            return network
    raise ValueError("no network of the configuration has the shapes of the one that ships")
