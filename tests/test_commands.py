"""fit and evaluate from one end to the other: what a run leaves behind, and what happens when it is started again."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from tests.networks_for_tests import CLASSES, VOID, tiny_network
from tests.runs_for_tests import (
    PALETTE,
    SEGFORMER,
    assert_same_bits,
    checkpointed,
    configuration,
    table,
    write_configuration,
    write_data,
)
from tfssl import callbacks, config, errors, evaluate, export, fit, folders, runs
from tfssl.export import parity

ROLES = ["teacher_1", "teacher_2", "student_1", "student_2"]


pytestmark = pytest.mark.usefixtures("tiny_surroundings")


@pytest.fixture
def unexported(tmp_path):
    """The configuration file and the folder of a short finished run without exports."""
    content = configuration(write_data(tmp_path / "data"), training={"steps": 2})
    path = write_configuration(tmp_path / "run.json", content)
    return path, fit.fit(path, output_dir=tmp_path / "run")


def call(main, *arguments):
    errors.run(main, [str(argument) for argument in arguments])


def read(path):
    return json.loads(path.read_text())


# What fit leaves.


def test_the_run_folder_is_complete(finished):
    _, folder = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "history.csv", "evaluations.csv", "metrics.json", "checkpoints", "tensorboard",
                     "alarms.csv", "pseudo_labels.csv", "report.html", "pictures", "export", "data.json"}  # fmt: skip
    assert (folder / "export" / "saved_model" / "1" / "saved_model.pb").is_file()
    assert (folder / "export" / "onnx" / "1" / "model.onnx").is_file()
    assert {path.name for path in (folder / "pictures").iterdir()} == {"example_00.png", "example_01.png"}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {
        "checkpoint", *(f"ckpt-{n}.{end}" for n in (3, 6) for end in ("index", "data-00000-of-00001", "sha256"))
    }  # fmt: skip
    assert "<html" in (folder / "report.html").read_text()[:500]


def test_the_resolved_configuration_says_every_default(finished):
    _, folder = finished
    content = read(folder / "config.json")
    method = {"name": "robust_mutual", "stages": 2, "warm_up": 0.2, "p0": "online", "ema_decay": 0.999}
    assert method.items() <= content["method"].items()
    assert content["networks"] == [{"name": "tiny", "dropout": 0.3, "stochastic_depth": 0.3}]
    assert content["data"]["on_bad_file"] == "fail" and content["data"]["weak"]["rotation"] == 0
    assert content["training"]["strategy"] == "default" and content["task"]["ignore_index"] == VOID
    assert list(content)[:3] == ["about", "seed", "deterministic"]


def test_unlabeled_images_that_are_the_labeled_ones_are_told(unexported, capsys):
    path, folder = unexported
    fit.fit(path, ["data.unlabeled=labeled.txt", 'method={"name": "mean_teacher"}'], folder.with_name("other"))
    assert "warning: every unlabeled image is a labeled one" in capsys.readouterr().err


def test_metrics_hold_the_scores_of_every_network_by_role(finished):
    _, folder = finished
    metrics = read(folder / "metrics.json")
    assert list(metrics["networks"]) == ROLES
    for score in (metrics, *metrics["networks"].values()):
        assert 0 <= score["miou"] <= 1 and 0 <= score["pixel_accuracy"] <= 1
        assert list(score["per_class_iou"]) == list(CLASSES)
        known = [value for value in score["per_class_iou"].values() if value is not None]
        assert score["miou"] == pytest.approx(sum(known) / len(known))
        assert score["steps"] == 6 and score["seconds"] > 0 and score["method"] == "robust_mutual"
    teacher = metrics["networks"]["teacher_1"]
    assert {key: metrics[key] for key in teacher} == teacher
    assert len({score["pixel_accuracy"] for score in metrics["networks"].values()}) > 1


def test_the_tables_hold_a_row_for_each_moment(finished):
    _, folder = finished
    history = table(folder / "history.csv")
    assert [row["step"] for row in history] == ["2", "4", "6"]
    assert list(history[0])[:3] == ["step", "seconds", "learning_rate"]
    assert all(math.isfinite(float(value)) for value in history[-1].values())
    evaluations = table(folder / "evaluations.csv")
    assert list(evaluations[0]) == ["step", "miou", "pixel_accuracy", "pseudo_label_miou", "pseudo_label_accuracy",
                                    "total_variation"]  # fmt: skip
    assert [row["step"] for row in evaluations] == ["4", "6"]
    assert float(evaluations[-1]["miou"]) == pytest.approx(read(folder / "metrics.json")["miou"], abs=1e-5)
    assert all(0 <= float(value) <= 1 for name, value in evaluations[-1].items() if name != "step")
    classes = table(folder / "pseudo_labels.csv")
    assert list(classes[0]) == ["step", "class", "accuracy", "iou"]
    names = read(folder / "config.json")["task"]["classes"]
    assert [(row["step"], row["class"]) for row in classes] == [(step, name) for step in ("4", "6") for name in names]
    known = [float(row["iou"]) for row in classes if row["step"] == "6" and row["iou"]]
    assert sum(known) / len(known) == pytest.approx(float(evaluations[-1]["pseudo_label_miou"]), abs=1e-5)


def test_tensorboard_has_scalars_and_a_picture(finished):
    _, folder = finished
    tags = set()
    for path in (folder / "tensorboard").iterdir():
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            tags |= {(value.tag, event.step) for value in event.summary.value}
    assert {("training/supervised_1", 2), ("training/learning_rate", 6)} <= tags
    assert {("evaluation/miou", 4), ("prediction", 6)} <= tags


def test_a_row_is_the_mean_of_all_steps_since_the_last(tmp_path):
    """Also where an evaluation, which ends Keras's epoch, lies between two rows."""
    root = write_data(tmp_path / "data")
    training = {"steps": 6, "evaluate_every": 4, "checkpoint_every": 6}
    for every in (1, 3):
        content = configuration(root, training=training | {"log_every": every})
        fit.fit(write_configuration(tmp_path / "run.json", content), output_dir=tmp_path / f"every_{every}")
    single = [float(row["supervised"]) for row in table(tmp_path / "every_1" / "history.csv")]
    means = [float(row["supervised"]) for row in table(tmp_path / "every_3" / "history.csv")]
    assert means == pytest.approx([np.mean(single[:3]), np.mean(single[3:])], rel=1e-4)


# The same command again.


def test_an_export_that_is_wanted_later_is_made_without_training(unexported, capsys):
    path, folder = unexported
    fit.fit(path, ["export.onnx=true"], folder)
    assert (folder / "export" / "onnx" / "1" / "model.onnx").is_file()
    assert not (folder / "export" / "saved_model").exists()
    assert "nothing to train" in capsys.readouterr().out


def test_a_finished_run_started_again_trains_nothing_and_says_where_all_is(run, capsys, monkeypatch):
    path, folder = run
    kept = {name: (folder / name).read_bytes() for name in ("history.csv", "evaluations.csv", "config.json")}
    metrics, before = read(folder / "metrics.json"), checkpointed(folder)

    def begun(self, batch, logs=None):
        raise AssertionError("training has begun")

    monkeypatch.setattr(callbacks.Phases, "on_train_batch_begin", begun)
    call(fit.main, path, "--output-dir", folder)
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"report: {folder / 'report.html'}" in last
    assert f"saved_model: {folder / 'export' / 'saved_model'}" in last
    assert f"onnx: {folder / 'export' / 'onnx' / '1' / 'model.onnx'}" in last
    assert kept == {name: (folder / name).read_bytes() for name in kept}
    assert_same_bits(before, checkpointed(folder))
    assert without_seconds(read(folder / "metrics.json")) == without_seconds(metrics)


def without_seconds(metrics):
    """Metrics without the time, which is kept to a tenth of a second."""
    if not isinstance(metrics, dict):
        return metrics
    return {key: without_seconds(value) for key, value in metrics.items() if key != "seconds"}


def test_a_finished_run_started_again_publishes_no_further_version(run):
    """A server that watches the folder would load the same network again."""
    path, folder = run
    call(fit.main, path, "--output-dir", folder)
    for kind in ("saved_model", "onnx"):
        assert [place.name for place in (folder / "export" / kind).iterdir() if place.is_dir()] == ["1"]


@pytest.mark.parametrize(
    "change, says",
    [
        ("seed=4", "seed is 3, not 4"),
        ("training.learning_rate=0.01", "training.learning_rate is 0.05, not 0.01"),
        ("method.p0=stage", 'method.p0 is "online", not "stage"'),
        ("networks.0.dropout=0.1", "networks"),
        ("data.crop=[16,16]", "data.crop"),
    ],
)
def test_another_configuration_is_refused_by_the_key(run, capsys, change, says):
    path, folder = run
    before = (folder / "config.json").read_bytes()
    with pytest.raises(SystemExit) as end:
        call(fit.main, path, "--output-dir", folder, "--set", change)
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith("error: ")
    assert str(folder) in line and says in line and "--output-dir" in line
    assert (folder / "config.json").read_bytes() == before


def test_what_does_not_touch_training_may_change(run):
    path, folder = run
    changes = ["about=again", "evaluation.pictures=1", "export.saved_model=false", "export.onnx=false"]
    call(fit.main, path, "--output-dir", folder, *(word for change in changes for word in ("--set", change)))
    assert read(folder / "config.json")["about"] == "again"


# evaluate


def test_evaluate_gives_the_numbers_of_the_run(run):
    _, folder = run
    call(evaluate.main, folder)
    written = read(folder / "metrics_validation.json")
    metrics = read(folder / "metrics.json")
    assert written["on"] == "validation" and written["images"] == 3 and written["step"] == 6
    assert list(written["networks"]) == ROLES
    for role, score in written["networks"].items():
        for key in ("miou", "per_class_iou", "pixel_accuracy"):
            assert score[key] == metrics["networks"][role][key], (role, key)


def test_evaluate_on_another_list(run, capsys):
    _, folder = run
    call(evaluate.main, folder, "--on", "test", "--set", "data.test=validation.txt")
    assert read(folder / "metrics_test.json")["networks"]["teacher_1"]["miou"] == read(folder / "metrics.json")["miou"]
    call(evaluate.main, folder, "--on", "held_out")
    assert read(folder / "metrics_held_out.json")["images"] == 2
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        call(evaluate.main, folder, "--on", "test")
    assert end.value.code == 2 and "data.test" in capsys.readouterr().err


# A loss that is no number


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_its_checkpoints(tmp_path, capsys, monkeypatch):
    root = write_data(tmp_path / "data")
    content = configuration(root, training={"steps": 6, "checkpoint_every": 2, "log_every": 10})
    path = write_configuration(tmp_path / "run.json", content)
    folder = tmp_path / "run"
    honest = callbacks.Save.on_train_batch_end

    def spoil(self, batch, logs=None):
        honest(self, batch, logs)
        if self.run.step == 4:  # after a good save
            classifier = self.run.method.network.get_layer("classifier").get_layer("logits_convolution")
            classifier.bias.assign(np.full(3, np.nan))

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(callbacks.Save, "on_train_batch_end", spoil)
        call(fit.main, path, "--output-dir", folder)
    told = capsys.readouterr().err.splitlines()
    (line,) = [line for line in told if "retracing" not in line]  # of which TensorFlow warns after the tests before
    assert end.value.code == 2
    for part in ("error: step 5: supervised is not finite", str(folder), "training.learning_rate", "0.05"):
        assert part in line
    assert all(np.isfinite(value).all() for value in checkpointed(folder).values())
    assert (folder / "checkpoints" / "ckpt-2.index").is_file() and not (folder / "metrics.json").exists()
    fit.fit(path, output_dir=folder)  # goes on from the good save
    assert [row["step"] for row in table(folder / "history.csv")] == ["6"]


def test_mixed_precision_is_trained_scored_and_exported(tmp_path):
    root = write_data(tmp_path / "data")
    content = configuration(root, training={"steps": 2, "precision": "mixed_bfloat16"}, export={"saved_model": True})
    fit.fit(write_configuration(tmp_path / "run.json", content), output_dir=tmp_path / "run")
    assert (tmp_path / "run" / "export" / "saved_model" / "1").is_dir()


@pytest.mark.slow
def test_students_of_different_architectures(tmp_path):
    """Two entries of `networks`: the first is the first student, and its teacher is what ships."""
    root = write_data(tmp_path / "data")
    content = configuration(root, networks=[{"name": "tiny"}, SEGFORMER], method={"name": "robust_mutual"},
                            training={"steps": 4}, export={"saved_model": True})  # fmt: skip
    folder = fit.fit(write_configuration(tmp_path / "run.json", content), output_dir=tmp_path / "run")
    scores = read(folder / "metrics.json")["networks"]
    assert list(scores) == ROLES
    first, second = runs.reopen(folder, data=False).method.teachers
    assert first.count_params() == tiny_network().count_params() != second.count_params()


def test_a_refused_export_leaves_the_report(tmp_path, monkeypatch):
    content = configuration(write_data(tmp_path / "data"), training={"steps": 2}, export={"saved_model": True})
    path = write_configuration(tmp_path / "run.json", content)
    with monkeypatch.context() as patch, pytest.raises(export.ExportError):
        patch.setitem(parity.TOLERANCE, "saved_model", -1.0)
        fit.fit(path, output_dir=tmp_path / "run")
    assert "no check of an exported network" in (tmp_path / "run" / "report.html").read_text()
    fit.fit(path, output_dir=tmp_path / "run")  # exports what is lacking and trains nothing
    assert (tmp_path / "run" / "export" / "saved_model" / "1").is_dir()
    assert "no check of an exported network" not in (tmp_path / "run" / "report.html").read_text()


def test_two_processes_do_not_train_in_one_folder(unexported, capsys):
    path, folder = unexported
    source = SimpleNamespace(classes=CLASSES, palette=PALETTE, resamples=True)
    settings = runs.complete(runs.resolve(config.load(path), path), source)
    with folders.claim(folder, settings, runs.begun):
        call_and_fail(capsys, fit.main, path, "--output-dir", folder, says=[str(folder), "another process is training"])
    call(fit.main, path, "--output-dir", folder)


@pytest.mark.parametrize("count", [1, 2])
def test_a_checkpoint_that_was_cut_short(tmp_path, capsys, count):
    """The one before it serves, for other commands too; where there is none, the user is told."""
    content = configuration(
        write_data(tmp_path / "data"), training={"steps": 4, "checkpoint_every": 5 - 2 * (count - 1)}
    )
    path, folder = write_configuration(tmp_path / "run.json", content), tmp_path / "run"
    fit.fit(path, output_dir=folder)
    capsys.readouterr()
    for data in (folder / "checkpoints").glob("ckpt-4.data*"):
        data.write_bytes(data.read_bytes()[:1000])
    if count == 1:
        call_and_fail(capsys, evaluate.main, folder, says=["ckpt-4", "is not what was written", "to begin anew"])
        return
    call(evaluate.main, folder)
    told = capsys.readouterr().err
    assert told.count("warning: ") == 1 and "ckpt-4.data-00000-of-00001 is not what was written" in told
    fit.fit(path, output_dir=folder)
    assert "going on after step 3" in capsys.readouterr().out and read(folder / "metrics.json")["steps"] == 4


def test_interrupted_by_hand(unexported, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "fit", interrupted)
    with pytest.raises(SystemExit) as end:
        call(fit.main, unexported[0])
    assert end.value.code == 130 and "the same command goes on" in capsys.readouterr().err


def call_and_fail(capsys, main, *arguments, says):
    with pytest.raises(SystemExit) as end:
        call(main, *arguments)
    last = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and last.startswith("error: ")
    for part in says:
        assert part in last
