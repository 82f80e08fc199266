"""A run that is cut and started again ends in the very bits of one that was not; labels not to be seen change none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts import CONTRACTS
from tests.cuts_for_tests import PROJECT, assert_same_run, kill_when, logged, saved, saving, start
from tests.runs_for_tests import (
    SEGFORMER,
    assert_same_bits,
    checkpointed,
    configuration,
    fit_and_cut,
    fit_and_hold,
    label_name,
    state,
    table,
    write_configuration,
    write_data,
)
from tfssl import fit, runs
from tfssl.methods import METHODS

HEADED = {"name": "s4l", "ema_decay": 0.9}
MUTUAL = {"name": "robust_mutual", "p0": "stage", "stages": 2, "warm_up": 0.2, "ema_decay": 0.9}
CROSS = {"name": "cross_teacher", "memory_size": 4, "start_by": 2, "threshold": 0.4}
TRAINING = {"steps": 10, "checkpoint_every": 3, "evaluate_every": 4, "log_every": 2}  # stages begin at steps 2 and 6


pytestmark = pytest.mark.usefixtures("tiny_surroundings")


@pytest.fixture
def root(tmp_path):
    return write_data(tmp_path / "data")


# In process: an exception cuts the run.


@pytest.mark.slow
def test_mutual_learning_cut_in_every_phase_goes_on_to_the_same_bits(root, tmp_path):
    method = MUTUAL | {"prototype_start": "full_pass"}
    path = write_configuration(tmp_path / "run.json", configuration(root, method=method, training=TRAINING))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    expected = fit_and_hold(path, whole)
    for step in (1, 5, 7):  # before the first save, in the first stage, in the second just after a save at its start
        fit_and_cut(path, cut, step)
    assert_same_bits(expected, fit_and_hold(path, cut))
    assert_same_run(whole, cut)
    assert [row["step"] for row in table(cut / "history.csv")] == ["2", "4", "6", "8", "10"]
    assert [row["step"] for row in table(cut / "evaluations.csv")] == ["4", "8", "10"]


@pytest.mark.slow
def test_a_detector_with_an_optimizer_of_its_own_goes_on_to_the_same_bits(root, tmp_path):
    method = {"name": "gct", "ramp_up": 4, "detector_width": 4, "detector_stride": 8}
    training = {"steps": 6, "checkpoint_every": 2}
    path = write_configuration(tmp_path / "run.json", configuration(root, method=method, training=training))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    expected = fit_and_hold(path, whole)
    fit_and_cut(path, cut, 5)
    assert_same_bits(expected, fit_and_hold(path, cut))
    assert_same_run(whole, cut)


@pytest.mark.slow
def test_a_term_that_is_zero_is_told_however_often_the_run_is_cut(root, tmp_path):
    training = {"steps": 12, "checkpoint_every": 2, "log_every": 1}
    content = configuration(root, method={"name": "mean_teacher", "consistency_weight": 0}, training=training)
    path = write_configuration(tmp_path / "run.json", content)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fit.fit(path, output_dir=whole)
    for step in (5, 9):
        fit_and_cut(path, cut, step)
    fit.fit(path, output_dir=cut)
    assert_same_run(whole, cut)
    assert [(row["step"], row["kind"]) for row in table(cut / "alarms.csv")] == [("10", "zero consistency")]


@pytest.mark.slow
def test_cross_teacher_goes_on_with_its_banks_and_scores_its_ensemble(root, tmp_path):
    path = write_configuration(tmp_path / "run.json", configuration(root, method=CROSS))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    expected = fit_and_hold(path, whole)
    fit_and_cut(path, cut, 5)
    assert_same_bits(expected, fit_and_hold(path, cut))
    assert_same_run(whole, cut)
    scores = json.loads((cut / "metrics.json").read_text())["networks"]
    assert list(scores) == ["teacher_1", "teacher_2", "student_1", "student_2", "ensemble"]
    assert any(float(row["high_1"]) > 0 for row in table(cut / "history.csv"))


@pytest.mark.parametrize("method", [{"name": "supervised"}, {"name": "cutmix"}, HEADED, MUTUAL, CROSS])
def test_a_reopened_run_holds_every_value_of_the_one_that_was_trained(root, tmp_path, method):
    training = {"steps": 5, "log_every": 3}  # the meters hold something after the last row but one
    path = write_configuration(tmp_path / "run.json", configuration(root, method=method, training=training))
    trained = fit_and_hold(path, tmp_path / "run")
    reopened = state(runs.reopen(tmp_path / "run"))
    assert_same_bits(trained, reopened)


def test_a_run_cut_while_it_scores_and_exports_is_finished_by_the_next(root, tmp_path, monkeypatch):
    path = write_configuration(tmp_path / "run.json", configuration(root))
    folder = tmp_path / "run"

    def cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fit, "draw_examples", cut)
        fit.fit(path, output_dir=folder)
    before = checkpointed(folder)
    assert not (folder / "report.html").exists()
    fit.fit(path, output_dir=folder)
    assert (folder / "report.html").is_file() and (folder / "metrics.json").is_file()
    assert_same_bits(before, checkpointed(folder))


def test_half_written_rows_and_a_save_without_its_name_are_forgotten(root, tmp_path):
    path = write_configuration(tmp_path / "run.json", configuration(root))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fit.fit(path, output_dir=whole)
    fit_and_cut(path, cut, 5)
    with open(cut / "history.csv", "a") as file:
        file.write("6,1.")
    for end in ("index", "data-00000-of-00001"):
        (cut / "checkpoints" / f"ckpt-4.{end}").write_bytes(b"half of a sa")
    (cut / "config.json").with_name(".config.json.partial").write_text("{")
    fit.fit(path, output_dir=cut)
    assert_same_run(whole, cut)


# Two replicas, in processes of their own.


def on_two_replicas(*words):
    words = [sys.executable, "-m", "tests.mirrored_for_tests", *map(str, words)]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_run_on_two_replicas(root, tmp_path):
    """And the same file on one, of the same strategy."""
    training = {"steps": 2, "log_every": 1, "evaluate_every": 2, "strategy": "mirrored", "labeled_batch": 2,
                "unlabeled_batch": 2}  # fmt: skip
    small = {"name": "unet", "width": 4, "levels": 1}
    content = configuration(root, networks=[small], method={"name": "mean_teacher"}, training=training)
    path = write_configuration(tmp_path / "run.json", content)
    on_two_replicas(path, tmp_path / "two")
    one = [sys.executable, "-m", "tfssl.fit", str(path), "--output-dir", str(tmp_path / "one")]
    done = subprocess.run(one, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("one", "two"):
        assert [row["step"] for row in table(tmp_path / name / "history.csv")] == ["1", "2"]


@pytest.mark.parametrize(
    "xla", [pytest.param(False, marks=pytest.mark.soak), pytest.param(True, marks=pytest.mark.slow)])  # fmt: skip
def test_a_run_on_two_replicas_scores_exports_and_goes_on_to_the_same_bits(root, tmp_path, xla):
    training = TRAINING | {"strategy": "mirrored", "xla": xla, "labeled_batch": 2, "unlabeled_batch": 4}
    content = configuration(
        root, deterministic=not xla, data={"held_out": "held_out.txt"}, training=training,
        method=MUTUAL | {"prototype_start": "full_pass"}, export={"saved_model": True, "onnx": True},
    )  # fmt: skip
    path = write_configuration(tmp_path / "run.json", content)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    on_two_replicas(path, whole)
    on_two_replicas(path, cut, 5)
    on_two_replicas(path, cut)
    assert_same_run(whole, cut)
    assert (cut / "export" / "saved_model" / "1").is_dir() and (cut / "report.html").is_file()


# The labels that must not be seen.


def garbage(path):
    path.write_bytes(b"garbage")


def directory(path):
    path.unlink()
    path.mkdir()


@pytest.mark.slow
def test_labels_named_for_unlabeled_images_change_no_bit(root, tmp_path):
    content = configuration(root, method={"name": "robust_mutual", "warm_up": 0}, training={"steps": 4})
    path = write_configuration(tmp_path / "run.json", content)
    fit.fit(path, output_dir=tmp_path / "good")
    for number, spoil in zip(range(4, 8), (garbage, directory, Path.unlink, garbage), strict=True):
        spoil(root / label_name(number))
    fit.fit(path, output_dir=tmp_path / "spoiled")
    assert_same_run(tmp_path / "good", tmp_path / "spoiled")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_on_to_the_same_bits_and_sees_no_hidden_label(name, root, tmp_path):
    """One run is whole, with labels beside the unlabeled images; the other is cut, and has garbage in their place."""
    path = write_configuration(
        tmp_path / "run.json", configuration(root, method={"name": name, **CONTRACTS[name].shown})
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    expected = fit_and_hold(path, whole)
    for number in range(4, 8):
        garbage(root / label_name(number))
    fit_and_cut(path, cut, 5)
    assert_same_bits(expected, fit_and_hold(path, cut))
    assert_same_run(whole, cut)


# A process of its own: kill -9.


@pytest.mark.parametrize("moments", [
    pytest.param([(saving, 6), (logged, 15)], marks=pytest.mark.slow),
    # of steps 0 to 4, 4 to 12 and 12 to 20: warm-up and two stages
    pytest.param([(logged, 2), (saving, 6), (logged, 11), (saved, 15)], marks=pytest.mark.soak)])  # fmt: skip
def test_kill_9_at_any_moment_and_the_same_command_give_the_same_bits(root, tmp_path, moments):
    training = TRAINING | {"steps": 20, "evaluate_every": 10, "log_every": 1, "optimizer": "adamw"}
    content = configuration(root, networks=[SEGFORMER], method=MUTUAL, training=training)
    path = write_configuration(tmp_path / "run.json", content)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(path, whole).wait() == 0
    for moment, step in moments:
        kill_when(start(path, killed), moment(killed, step))
    assert start(path, killed).wait() == 0
    assert_same_run(whole, killed)
    assert [int(row["step"]) for row in table(killed / "history.csv")] == list(range(1, 21))
    assert "going on after step" in killed.with_suffix(".log").read_text()
