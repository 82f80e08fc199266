"""The comparison of methods: its numbers against slow versions, its table, and that it goes on where it was cut."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from tests.runs_for_tests import SEGFORMER, configuration, write_configuration, write_data
from tests.test_resume import PROJECT, kill_when, logged
from tfssl import compare, comparison, errors, evaluate, fit
from tfssl.errors import UserError
from tfssl.tasks import Segmentation

TASK = Segmentation(["sky", "road"])


pytestmark = pytest.mark.usefixtures("tiny_surroundings")


def tallies(generator, images=30, right=0.8):
    """Confusion matrices [N, 2, 2] of images of 100 pixels, of which about `right` are predicted as they are."""
    hit = generator.binomial(50, right, [images, 2])
    return np.stack([np.stack([hit[:, 0], 50 - hit[:, 0]], -1), np.stack([50 - hit[:, 1], hit[:, 1]], -1)], 1)


def miou(total):
    return TASK.scores(total)["miou"]


def test_bootstrap_against_a_loop_over_drawn_images():
    """The same images for both sides and both seeds: what the sides, or the seeds, share widens or narrows it."""
    generator = np.random.default_rng(0)
    hard = tallies(generator, right=0.3) * (generator.random(30) < 0.3)[:, None, None]  # for the second side alone
    first = [tallies(generator, right=0.82) for _ in range(2)]
    second = [each + 3 * hard for each in first]
    gain, low, high = comparison.paired_bootstrap(first, second, miou, resamples=400)
    slow = []
    for _ in range(400):
        drawn = generator.integers(0, 30, 30)
        pairs = zip(first, second, strict=True)
        slow.append(np.mean([miou(one[drawn].sum(0)) - miou(other[drawn].sum(0)) for one, other in pairs]))
    assert gain == pytest.approx(np.mean([miou(a.sum(0)) - miou(b.sum(0)) for a, b in zip(first, second, strict=True)]))
    np.testing.assert_allclose([low, high], np.percentile(slow, [2.5, 97.5]), atol=0.1 * (high - low))
    assert low < gain < high
    (alone, *_), (least, most) = zip(first, second, strict=True), np.percentile(slow, [2.5, 97.5])
    _, *of_one = comparison.paired_bootstrap([alone[0]], [alone[1]], miou, resamples=400)
    assert most - least > 0.85 * (of_one[1] - of_one[0])  # drawn anew for each seed, it would be 0.71 of that


def test_bootstrap_is_paired():
    """The same errors on both sides, whatever images are drawn, make no difference at all."""
    generator = np.random.default_rng(1)
    one = tallies(generator, right=0.6)
    assert comparison.paired_bootstrap([one], [one], miou, resamples=50) == (0, 0, 0)


@pytest.mark.parametrize("text", ["", "a", "1,1", "-1", "1.5", "0,2000000"])
def test_seeds_that_are_none(text):
    with pytest.raises(UserError, match="--seeds"):
        compare.seeds_of(text)
    assert compare.seeds_of("3,0") == [3, 0]


def test_a_seed_among_the_settings_is_refused():
    with pytest.raises(UserError, match="--seeds instead"):
        compare.main(["a.json", "--set", "seed=3"])


@pytest.fixture
def paths(tmp_path):
    root = write_data(tmp_path / "data")
    contents = {
        "labels_alone": configuration(root, training={"steps": 3}),
        "teacher": configuration(root, method={"name": "mean_teacher"}, training={"steps": 3}),
    }
    return [write_configuration(tmp_path / f"{name}.json", content) for name, content in contents.items()]


@pytest.fixture
def called(monkeypatch):
    """The commands of a comparison, run in this process; "stop" in the list ends it before the next one."""
    commands = {"tfssl.fit": fit.main, "tfssl.evaluate": evaluate.main}
    calls = []

    def call(module, *arguments):
        calls.append((module, *map(str, arguments)))
        if len(calls) == 6:
            raise KeyboardInterrupt
        commands[module]([str(argument) for argument in arguments])

    monkeypatch.setattr(comparison, "in_a_process", call)
    return calls


def test_a_comparison_that_is_cut_goes_on_without_repeating_a_finished_run(paths, tmp_path, called, capsys):
    folder = tmp_path / "comparison"
    with pytest.raises(KeyboardInterrupt):
        comparison.compare(paths, [0, 1], folder, on="validation")
    assert [call[0] for call in called] == ["tfssl.fit", "tfssl.evaluate"] * 3
    done = [call[1] for call in called if call[0] == "tfssl.evaluate"][:2]
    before = len(called)
    comparison.compare(paths, [0, 1], folder, on="validation")
    later = called[before:]
    assert [call[0] for call in later] == ["tfssl.fit", "tfssl.evaluate"] * 2  # the cut one, and the one never begun
    assert not set(done) & {word for call in later for word in call}
    check_table(folder, capsys.readouterr().out)
    comparison.compare(paths, [0, 1], folder, on="validation")
    assert len(called) == before + 4
    with pytest.raises(UserError, match="labels_alone_0: holds a run whose .*learning_rate is 0.05, not 0.01"):
        comparison.compare(paths, [0, 1], folder, on="validation", overrides=["training.learning_rate=0.01"])


def check_table(folder, printed):
    text = (folder / "comparison.md").read_text()
    assert text in printed and (folder / "comparison.png").stat().st_size > 5000
    with open(folder / "comparison.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["method"], second["method"]) == ("labels_alone", "teacher") and first["gain"] == ""
    scores = {name: [json.loads((folder / f"{name}_{seed}" / "metrics.json").read_text())["miou"] for seed in (0, 1)]
              for name in ("labels_alone", "teacher")}  # fmt: skip
    for row in (first, second):
        np.testing.assert_allclose(float(row["mean"]), np.mean(scores[row["method"]]), rtol=1e-5)
        np.testing.assert_allclose(float(row["deviation"]), np.std(scores[row["method"]], ddof=1), rtol=1e-4)
    gains = np.subtract(scores["teacher"], scores["labels_alone"])
    np.testing.assert_allclose(float(second["gain"]), gains.mean(), atol=1e-6)
    np.testing.assert_allclose(float(second["gain_deviation"]), np.std(gains, ddof=1), atol=1e-6)
    assert float(second["low"]) <= float(second["gain"]) <= float(second["high"])
    assert f"| teacher | {100 * np.mean(scores['teacher']):.2f} ± " in text and "gain over labels_alone" in text


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        errors.run(compare.main, [str(argument) for argument in arguments])
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_what_cannot_be_compared(paths, tmp_path, capsys, called):
    content = json.loads(paths[1].read_text())
    other = write_configuration(tmp_path / "longer.json", content | {"training": {**content["training"], "steps": 4}})
    last = fails(capsys, *paths, other, "--on", "validation")
    assert "longer.json" in last and "training.steps is 4, not 3 as in" in last
    other = write_configuration(
        tmp_path / "more.json", content | {"training": {**content["training"], "labeled_batch": 4}}
    )
    assert "training.labeled_batch" in fails(capsys, paths[0], other, "--on", "validation")
    other = write_configuration(tmp_path / "cropped.json", content | {"data": {**content["data"], "crop": [24, 24]}})
    assert "data.crop" in fails(capsys, paths[0], other, "--on", "validation")
    assert "labels_alone.json: its data has no test set" in fails(capsys, *paths)
    other = write_configuration(tmp_path / "unfit.json", content | {"method": {"name": "gct"}})
    last = fails(capsys, paths[0], other, "--on", "validation")
    assert "unfit.json: data.crop is" in last and "method.detector_stride" in last
    assert "labels_alone.json: cannot write" in fails(capsys, *paths, "--output-dir", paths[0])
    assert "one name" in fails(capsys, paths[0], paths[0], "--on", "validation")
    assert "--against" in fails(capsys, *paths, "--on", "validation", "--against", "nobody")
    assert called == []


@pytest.mark.slow
def test_a_run_that_was_scored_before_its_end_is_not_taken_for_finished(paths, tmp_path, called):
    """Nor one that was scored on other images; and scores under changed settings are none for a comparison."""
    folder = tmp_path / "comparison"
    comparison.compare(paths[:1], [0], folder, on="validation")
    tallied = folder / "labels_alone_0" / "tallies_validation.npz"
    whole = dict(np.load(tallied))
    evaluate.main([str(tallied.parent), "--on", "validation", "--set", "data.crop=[24,24]"])
    np.testing.assert_equal(dict(np.load(tallied)), whole)
    np.savez(tallied, **whole | {"step": 2})
    comparison.compare(paths[:1], [0], folder, on="validation")
    assert len(called) == 4 and np.load(tallied)["step"] == 3
    np.savez(tallied, **whole | {"names": whole["names"][::-1]})
    called.clear()
    with pytest.raises(UserError, match="teacher_0: was scored on other validation images than the first run"):
        comparison.compare(paths, [0], folder, on="validation")


def test_a_gain_outside_of_its_interval_is_drawn(tmp_path):
    rows = [
        {"method": name, "mean": 0.5, "deviation": 0.1, "seconds_per_step": 0.1, "seeds": "0.4 0.6"} for name in "ab"
    ]
    rows[1] |= {"gain": 0.7, "gain_deviation": 0.05, "low": 0.6, "high": 0.66}
    facts = {"measure": "miou", "twin": "a", "on": "test", "images": 9, "seeds": 2, "steps": 10, "unlike": []}
    comparison.write(rows, tmp_path, facts)
    assert (tmp_path / "comparison.png").stat().st_size > 5000
    assert "| +70.00 ± 5.00 | +60.00 to +66.00 |" in (tmp_path / "comparison.md").read_text()


def test_networks_that_differ_are_told_below_the_table():
    rows = [{"method": name, "mean": 0.5, "deviation": float("nan"), "seconds_per_step": 0.1} for name in "ab"]
    facts = {"measure": "miou", "twin": "a", "on": "test", "images": 9, "seeds": 1, "steps": 10, "unlike": []}
    assert "Their network" not in comparison.markdown(rows, facts)
    assert comparison.markdown(rows, {**facts, "unlike": ["b"]}).endswith("Their network is not that of a: b.\n")


def test_the_time_of_a_step_is_without_tracing_and_evaluations(tmp_path):
    seconds = [31, 33, 35, 60, 62]  # traced in the first row, scored in the fourth
    lines = [f"{10 * row},{value}" for row, value in enumerate(seconds, 1)]
    (tmp_path / "history.csv").write_text("\n".join(["step,seconds", *lines, ""]))
    assert comparison.seconds_per_step(tmp_path) == pytest.approx(0.2)


@pytest.mark.slow
def test_kill_9_ends_the_training_too_and_the_same_command_goes_on(tmp_path):
    training = {"steps": 40, "evaluate_every": 40, "log_every": 1}
    content = configuration(write_data(tmp_path / "data"), networks=[SEGFORMER], training=training)
    paths = [write_configuration(tmp_path / f"{name}.json", content) for name in ("first", "second")]
    folder = tmp_path / "comparison"
    command = [sys.executable, "-m", "tfssl.compare", *map(str, paths), "--seeds", "0", "--on", "validation",
               "--output-dir", str(folder)]  # fmt: skip
    killed = subprocess.Popen(command, cwd=PROJECT)
    kill_when(killed, logged(folder / "second_0", 5))
    finished = (folder / "first_0" / "history.csv").stat().st_mtime_ns
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)  # at once: nothing trains there now
    assert done.returncode == 0, done.stderr[-2000:]
    assert (folder / "first_0" / "history.csv").stat().st_mtime_ns == finished
    assert "== " + str(folder / "first_0") not in done.stdout and "| second | " in done.stdout


@pytest.mark.slow
def test_a_command_that_fails_ends_the_comparison(tmp_path, capsys):
    with pytest.raises(UserError, match="tfssl.fit nowhere.json ended with status 2, see above"):
        comparison.in_a_process("tfssl.fit", "nowhere.json")
