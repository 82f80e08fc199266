"""A user's mistake ends in one clear line that says where it is and what to do, before anything is trained."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.runs_for_tests import (
    configuration,
    image_name,
    label_name,
    write_configuration,
    write_data,
    write_list,
)
from tfssl import callbacks, config, errors, evaluate, fit, folders, predict, runs
from tfssl.export.__main__ import main as export_main

MUTUAL = {"name": "robust_mutual"}
TINY = {"name": "tiny"}


pytestmark = pytest.mark.usefixtures("tiny_surroundings")


@pytest.fixture
def root(tmp_path):
    return write_data(tmp_path / "data")


@dataclass
class Mistake:
    """What is changed in a good run, and what must be said: parts of the last line, the beginning of each bad file's.

    sections: of the configuration, as `configuration` takes them; spoil(root): done to the data; overrides: of --set.
    """

    says: list[str]
    names: list[str] = field(default_factory=list)
    sections: dict = field(default_factory=dict)
    spoil: object = None
    overrides: list[str] = field(default_factory=list)


def changed(*says, spoil=None, **sections):
    return Mistake(list(says), sections=sections, spoil=spoil)


def given(*overrides, says):
    return Mistake(says, overrides=list(overrides))


def spoiled(spoil, names, *says):
    return Mistake(["data.root", *says], names, spoil=spoil)


def write_bytes(content, *names):
    return lambda root: [(root / name).write_bytes(content) for name in names]


def remove(*names):
    return lambda root: [(root / name).unlink() for name in names]


def write_labels(values, *numbers):
    return lambda root: [Image.fromarray(values).save(root / label_name(number)) for number in numbers]


def append(name, line):
    def spoil(root):
        with open(root / name, "a") as file:
            file.write(line + "\n")

    return spoil


def turned(name):
    def spoil(root):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.open(root / name).save(root / name, exif=exif)

    return spoil


def cut_short(*names):
    return lambda root: [(root / name).write_bytes((root / name).read_bytes()[:-40]) for name in names]


MISTAKES = {
    # keys, names and values of the configuration
    "unknown section": changed("trainnig: unknown key", "'training'", trainnig={}),
    "unknown key of data": changed("data.rooot", "'root'", data={"rooot": "x"}),
    "unknown key of weak": changed("data.weak.scael", "'scale'", data={"weak": {"scael": [1, 1]}}),
    "unknown key of task": changed("task.clases", "'classes'", task={"clases": []}),
    "unknown key of a network": changed("networks.0.dropuot", "'dropout'", networks=[TINY | {"dropuot": 0.1}]),
    "unknown key of a second network": changed(
        "networks.1.depth", networks=[TINY, TINY | {"depth": 9}], method=MUTUAL
    ),
    "unknown key of the method": changed("method.ema_deccay", "'ema_decay'", method={"ema_deccay": 0.9}),
    "a key of another method": changed("method.stages", method={"stages": 2}),
    "unknown key of training": changed("training.step", "'steps'", training={"step": 3}),
    "unknown method": changed("method.name", "'robust_mutal'", "'robust_mutual'", method={"name": "robust_mutal"}),
    "unknown network": changed("networks.0.name", "'deeplab_v3plus'", "'deeplab_v3_plus'",
                               networks=[{"name": "deeplab_v3plus"}]),
    "unknown source": changed("data.source", "'split_list'", "'split_lists'", data={"source": "split_list"}),
    "unknown optimizer": changed("training.optimizer", '"adam"', "'sgd'", training={"optimizer": "adam"}),
    "missing method": changed("method", "null", method=None),
    "a method without a name": changed("method.name", "is missing", method={"name": None}),
    "missing list key": changed("data.labeled", data={"labeled": None}),
    "wrong type of steps": changed("training.steps", '"many"', training={"steps": "many"}),
    "a fraction of steps": changed("training.steps", "1.5", training={"steps": 1.5}),
    "no step": changed("training.steps", "greater than 0", training={"steps": 0}),
    "wrong type of a section": changed("training", training=[1]),
    "wrong type of networks": changed("networks", networks="tiny"),
    "wrong type of a method's key": changed("method.ema_decay", '"slow"', method={"ema_decay": "slow"}),
    "negative learning rate": changed("training.learning_rate", "-1", training={"learning_rate": -1}),
    "a learning rate that is no number": changed("training.learning_rate", training={"learning_rate": float("nan")}),
    "crop 0": changed("data.crop.0", "greater than 0", data={"crop": [0, 32]}),
    "negative crop": changed("data.crop.1", "greater than 0", data={"crop": [32, -32]}),
    "one number for the crop": changed("data.crop", data={"crop": [32]}),
    "size 0": changed("data.size", data={"size": [0, 32]}),
    "no classes": changed("task.classes", task={"classes": []}),
    "a palette for other classes": changed("task.palette", "2 colours", "3", task={"palette": [[0, 0, 0], [9, 9, 9]]}),
    "a colour beyond 255": changed("task.palette.1.2", "300", task={"palette": [[0, 0, 0], [1, 2, 300], [9, 9, 9]]}),
    "an index to ignore that is a class": changed("task.ignore_index is 1", "3 to 255", task={"ignore_index": 1}),
    "an index to ignore beyond 8 bits": changed("task.ignore_index", "300", task={"ignore_index": 300}),
    "a class named twice": changed("task.classes", "twice", task={"classes": ["sky", "ground", "sky"]}),
    "scales in the wrong order": changed("data.weak.scale", "smaller", data={"weak": {"scale": [1.5, 0.5]}}),
    "a crop too small to blur": changed("data.crop", "7 pixels", data={"crop": [6, 32]}, method=MUTUAL),
    "a crop that cannot be turned": changed("data.crop", "[32, 24]", "same length", data={"crop": [32, 24]},
                                            method={"name": "s4l"}),
    "a crop that is one point of the flaw map": changed(
        "data.crop", "method.detector_stride 32", data={"crop": [32, 32]}, method={"name": "gct"}
    ),
    "memories larger than the machine": changed(
        "GB", "method.queue_capacity", method={"name": "u2pl", "queue_capacity": 2_000_000_000}
    ),
    "memories too small for a batch": changed(
        "method.memory_size", "method.quota", method={"name": "cross_teacher", "memory_size": 2, "quota": 3}
    ),
    "fewer unlabeled images than a batch": changed(
        "training.unlabeled_batch", "only 4", training={"unlabeled_batch": 5}, method=MUTUAL
    ),
    "XLA and determinism": changed("training.xla", "deterministic", training={"xla": True}),
    "XLA and what devices say to each other": changed(
        "training.xla", "batch_norm", training={"xla": True, "strategy": "mirrored", "labeled_batch": 2},
        deterministic=False,
        networks=[{"name": "deeplab_v2", "batch_norm": "synchronized"}],
    ),
    "too many networks": changed("networks", "give 1", networks=[TINY] * 2),
    "three networks for two": changed("networks", "robust_mutual", "1 or 2", networks=[TINY] * 3, method=MUTUAL),
    "no network": changed("networks", "give 1", networks=[]),
    "nothing to mix with": changed("training.unlabeled_batch", "two", training={"unlabeled_batch": 1}, method=MUTUAL),
    "more stages than steps": changed("method.stages", method=MUTUAL | {"stages": 50}),
    "a warm-up beyond the end": changed("method.warm_up", method=MUTUAL | {"warm_up": 100, "stages": 2}),
    "no stage": changed("method.stages", method=MUTUAL | {"stages": 0}),
    "a decay above 1": changed("method.ema_decay", "1.5", method={"ema_decay": 1.5}),
    "a negative seed": changed("seed", "-1", seed=-1),
    "a batch no two devices can share": changed(
        "training.labeled_batch", "multiple of 2", training={"labeled_batch": 3, "strategy": "mirrored"}
    ),
    # --set
    "set without a value": given("training.steps", says=["--set training.steps", "a.b.c=VALUE"]),
    "set without a place": given("=3", says=["--set =3", "a.b.c=VALUE"]),
    "set of an unknown key": given("training.step=3", says=["training.step", "unknown key", "'steps'"]),
    "set of a wrong value": given("training.steps=few", says=["training.steps", '"few"']),
    "set past the end of a list": given("networks.5.dropout=0", says=["--set networks.5.dropout=0", "no place"]),
    "set inside a number": given("seed.x=1", says=["--set seed.x=1", "no place"]),
    # lists
    "no root": changed("data.root", "nowhere", "not a directory", data={"root": "nowhere"}),
    "missing lists": Mistake(
        ["list file(s) missing"],
        ["data.labeled: no file", "data.validation: no file"],
        {"data": {"labeled": "x.txt", "validation": "y.txt"}},
    ),
    "empty list": changed("data.unlabeled", "names no example", spoil=write_bytes(b"\n# none\n", "unlabeled.txt")),
    "three lists that cannot be read": changed(
        "data.labeled: the list", "data.unlabeled: the list", "data.validation: the list",
        spoil=lambda root: (write_bytes(b"", "labeled.txt", "validation.txt")(root),
                            write_bytes(b"\xff\xfe", "unlabeled.txt")(root)),
    ),
    "mistakes of lists and of files at once": Mistake(
        ["list line(s)", "training and evaluation share", "1 bad file(s)"],
        ["data.unlabeled:", "9.jpg: in data.labeled and data.validation", "2.png: does not exist"],
        spoil=lambda root: (write_list(root, "labeled", [0, 2, 9]), append("unlabeled.txt", "../x.png")(root),
                            remove(image_name(2))(root)),
    ),
    "overlap of training and validation": Mistake(
        ["training and evaluation share"],
        ["9.jpg: in data.labeled and data.validation", "8.png: in data.unlabeled and data.validation"],
        spoil=lambda root: (write_list(root, "labeled", [0, 1, 9]), write_list(root, "unlabeled", [4, 5, 8])),
    ),
    "paths that leave the root": Mistake(
        ["list line(s)", "data.root"],
        ["data.labeled:", "data.unlabeled:", "data.validation:"],
        spoil=lambda root: [append(f"{name}.txt", "../a.png 0.png")(root) for name in ("labeled", "unlabeled")]
        + [append("validation.txt", "8.png ../x")(root)],
    ),
    "a line without a label": Mistake(["list line(s)"], ["data.labeled:"], spoil=append("labeled.txt", "4.png")),
    # files
    "missing images": spoiled(
        remove(image_name(0), image_name(5), image_name(9)), ["0.png: does not", "5.png: does not", "9.jpg: does not"]
    ),
    "missing labels": spoiled(remove(label_name(1), label_name(8)), ["labels/1.png: does", "labels/8.png: does"]),
    "label values out of range": spoiled(
        write_labels(np.full((48, 64), 3, np.uint8), 2, 8),
        ["labels/2.png: has values 3; allowed are 0 to 2", "labels/8.png: has values 3"],
    ),
    "labels of another size": spoiled(
        write_labels(np.zeros((48, 63), np.uint8), 0, 9),
        ["labels/0.png: is 48 x 63 pixels, but its image 0.png is 48 x 64", "labels/9.png: is 48 x 63"],
    ),
    "corrupt images": spoiled(
        cut_short(image_name(3), image_name(9)), ["3.png: is corrupt or cut short", "9.jpg: is corrupt or cut short"]
    ),
    "pictures to be turned": spoiled(turned(image_name(9)), ["9.jpg: is to be turned when shown (EXIF orientation 6)"]),
    "nothing to score": Mistake(
        ["evaluation needs labels"], ["data.validation: every pixel of every label is task.ignore_index 255"],
        spoil=lambda root: [write_labels(np.full(size, 255, np.uint8), n)(root)
                            for n, size in ((8, (48, 64)), (9, (48, 64)), (10, (40, 50)))],
    ),
    "all of it at once": spoiled(
        lambda root: (
            remove(image_name(0))(root),
            write_labels(np.full((48, 64), 200, np.uint8), 1)(root),
            write_labels(np.zeros((9, 9), np.uint8), 2)(root),
            write_bytes(b"garbage", image_name(6), label_name(10))(root),
            cut_short(image_name(9))(root),
        ),
        ["0.png:", "labels/1.png:", "labels/2.png:", "6.png:", "9.jpg:", "labels/10.png:"],
        "6 bad file(s)",
        "on_bad_file",
    ),
}  # fmt: skip


def fails(capsys, main, *arguments):
    """Run a command that must end in status 2: (its last line on stderr, the lines before it, one per bad file)."""
    with pytest.raises(SystemExit) as end:
        errors.run(main, [str(argument) for argument in arguments])
    assert end.value.code == 2
    *before, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: ")
    assert all(line.startswith("  ") for line in before), before
    return last, [line[2:] for line in before]


@pytest.fixture
def untrained(monkeypatch):
    """Fails if a step is begun."""

    def begun(self, batch, logs=None):
        raise AssertionError("training has begun")

    monkeypatch.setattr(callbacks.Phases, "on_train_batch_begin", begun)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_before_training_in_one_line_that_names_them(root, tmp_path, capsys, untrained, name):
    mistake = MISTAKES[name]
    content = configuration(root, **mistake.sections)
    path = write_configuration(tmp_path / "run.json", without_none(content))
    if mistake.spoil:
        mistake.spoil(root)
    overrides = [word for text in mistake.overrides for word in ("--set", text)]
    last, before = fails(capsys, fit.main, path, "--output-dir", tmp_path / "run", *overrides)
    for part in mistake.says:
        assert part in last, last
    assert len(before) == len(mistake.names), before
    for start in mistake.names:
        assert any(line.startswith(start) for line in before), (start, before)
    assert not (tmp_path / "run" / "checkpoints").exists()


def without_none(content):
    """A configuration whose sections lack the keys that are None; a section that is None stays null."""

    def clean(section):
        return {k: v for k, v in section.items() if v is not None} if isinstance(section, dict) else section

    return {name: clean(section) for name, section in content.items()}


@pytest.mark.parametrize("name", ["XLA and determinism", "no network", "a batch no two devices can share", "no root"])
def test_a_mended_configuration_may_use_the_same_folder(root, tmp_path, capsys, untrained, name):
    """A run that never began holds nothing against the one that follows."""
    path = write_configuration(tmp_path / "run.json", configuration(root, **MISTAKES[name].sections))
    fails(capsys, fit.main, path, "--output-dir", tmp_path / "run")
    write_configuration(path, configuration(root))
    with folders.claim(tmp_path / "run", runs.resolve(config.load(path), path), runs.begun):
        pass


@pytest.mark.parametrize(
    "content, says",
    [
        (None, ["no such file"]),
        ('{"seed": 1,\n "method": }', ["line 2", "not valid JSON"]),
        ("[]", ["must hold a JSON object"]),
        (b"\xff\xfe", ["cannot be read"]),
        ("", ["line 1", "not valid JSON"]),
        ("{}", ["method", "is missing"]),
        ("[" * 100_000, ["cannot be read as JSON"]),
        ('{"seed": ' + "9" * 5000 + "}", ["cannot be read as JSON"]),
    ],
)
def test_a_bad_configuration_file(tmp_path, capsys, content, says):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    last, before = fails(capsys, fit.main, path, "--output-dir", tmp_path / "run")
    assert before == [] and str(path) in last
    for part in says:
        assert part in last
    assert not (tmp_path / "run").exists()


def test_a_folder_in_place_of_the_configuration(tmp_path, capsys):
    last, _ = fails(capsys, fit.main, tmp_path)
    assert str(tmp_path) in last and "cannot be read" in last


@pytest.mark.parametrize("below", ["file/run", "file"])
def test_an_output_folder_that_cannot_be_written(root, tmp_path, capsys, untrained, below):
    """Below a regular file, or that file itself: nobody can write there, the superuser neither."""
    (tmp_path / "file").write_text("in the way")
    path = write_configuration(tmp_path / "run.json", configuration(root))
    last, before = fails(capsys, fit.main, path, "--output-dir", tmp_path / below)
    assert before == [] and str(tmp_path / below) in last and "--output-dir" in last
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("main", [evaluate.main, export_main, predict.main])
def test_commands_on_a_folder_without_a_run(tmp_path, capsys, main):
    images = [tmp_path / "a.png"] if main is predict.main else []
    last, _ = fails(capsys, main, tmp_path / "nowhere", *images)
    assert str(tmp_path / "nowhere") in last and "no run" in last


@pytest.mark.parametrize("main", [evaluate.main, export_main, predict.main])
def test_commands_on_a_run_without_a_checkpoint(root, tmp_path, capsys, main):
    path = write_configuration(tmp_path / "run.json", configuration(root))
    settings = runs.resolve(config.load(path), path)
    with folders.claim(tmp_path / "run", settings, runs.begun):
        pass
    images = [root / image_name(8)] if main is predict.main else []
    last, _ = fails(capsys, main, tmp_path / "run", *images)
    assert str(tmp_path / "run") in last and "no checkpoint" in last and "train" in last


def test_a_programming_error_keeps_its_traceback():
    def wrong(arguments):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        errors.run(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["fit", "evaluate", "predict", "export"])
def test_the_commands_themselves(root, tmp_path, command):
    """As a process: status 2, the error as the last line and no traceback; --help explains and is status 0."""
    arguments = ["nowhere", "a.png"] if command == "predict" else ["nowhere"]
    project = Path(fit.__file__).parent.parent

    def call(*words):
        words = [sys.executable, "-m", f"tfssl.{command}", *words]
        return subprocess.run(words, cwd=project, capture_output=True, text=True)

    done = call(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("error: nowhere: no ") and "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    helped = call("--help")
    assert helped.returncode == 0 and "--set" in helped.stdout


@pytest.mark.slow
def test_bad_files_in_a_process_of_its_own(root, tmp_path):
    (root / image_name(0)).unlink()
    content = configuration(root, networks=[{"name": "segformer"}])
    path = write_configuration(tmp_path / "run.json", content)
    words = [sys.executable, "-m", "tfssl.fit", str(path), "--output-dir", str(tmp_path / "run")]
    done = subprocess.run(words, cwd=Path(fit.__file__).parent.parent, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    name, last = done.stderr.splitlines()[-2:]
    assert name.startswith("  0.png: does not exist") and last.startswith("error: 1 bad file(s)")
    assert not (tmp_path / "run").exists() or json.loads((tmp_path / "run" / "config.json").read_text())
