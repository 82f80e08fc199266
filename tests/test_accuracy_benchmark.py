"""What the accuracy benchmark trains on, scores and never repeats, and the numbers of its tables."""

import json

import pytest

from benchmarks import accuracy, accuracy_figures, accuracy_plan, accuracy_report, step_cost
from benchmarks.accuracy_plan import PARTS, Trial
from tests.test_configs import PROJECT
from tfssl import config, runs


@pytest.fixture
def camvid(tmp_path):
    """The lists alone."""
    lists = {"val": 101, "train": 367, "1_32/seed2/labeled": 11, "1_32/seed2/unlabeled": 356}
    for name, count in lists.items():
        path = tmp_path / "camvid/splits" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"images/{n}.jpg labels/{n}.png\n" for n in range(1, count + 1)))
    return tmp_path / "camvid"


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path / "lines")
    for module in (accuracy, accuracy_report):
        monkeypatch.setattr(module, "RUNS", tmp_path / "lines/runs.csv")
        monkeypatch.setattr(module, "CURVES", tmp_path / "lines/curves.csv")
    return tmp_path / "lines"


def settings_of(words):
    return {key: json.loads(value) for key, _, value in (word.partition("=") for word in words[1::2])}


def numbers(path):
    with open(path) as file:
        return [int(line.split("/")[1].split(".")[0]) for line in file]


def test_what_is_chosen_on_reported_and_watched(camvid, tmp_path):
    trial = Trial("table", "gta", "1_32", 2, "gta", {"training.steps": 7})
    found = settings_of(accuracy.overrides(trial, camvid, tmp_path / "out"))
    assert numbers(found["data.validation"]) == list(range(1, 46))
    assert numbers(found["data.test"]) == list(range(57, 102))
    watched = numbers(found["data.held_out"])
    assert len(set(watched)) == 64 and set(watched) <= set(range(1, 357))
    assert found["data.labeled"] == "splits/1_32/seed2/labeled.txt" and found["seed"] == 2
    assert found["data.unlabeled"] == "splits/1_32/seed2/unlabeled.txt" and found["training.steps"] == 7
    every = settings_of(accuracy.overrides(Trial("table", "all labels", "all"), camvid, tmp_path / "out"))
    assert every["data.labeled"] == "splits/train.txt" and every["data.unlabeled"] is every["data.held_out"] is None


def test_a_line_is_added_once_and_its_run_is_finished(results):
    trial = Trial("table", "gta, longer", "1_32", 2)
    assert accuracy.finished() == set()
    with accuracy.alone():
        accuracy.put(accuracy.RUNS, [{**trial.key, "steps": 3}])
        accuracy.put(accuracy.RUNS, [{**trial.key, "seed": "1", "steps": 4, "seconds": 5}])
        accuracy.put(accuracy.RUNS, [{**trial.key, "steps": 6}])  # in place of the first
    assert accuracy.finished() == {tuple(trial.key.values()), ("table", "gta, longer", "1_32", "1")}
    rows = {(row["seed"], row["steps"], row["seconds"]) for row in accuracy_report.read(accuracy.RUNS)}
    assert rows == {("1", "4", "5"), ("2", "6", "")}


def test_what_a_control_has_learned_is_not_watched(camvid, tmp_path):
    trial = Trial("study", "oracle", "1_32", 2, "classmix", {"method.name": "oracle"})
    assert settings_of(accuracy.overrides(trial, camvid, tmp_path / "out"))["data.held_out"] is None


def test_every_trial_has_a_key_a_folder_and_a_configuration_of_its_own():
    trials = [trial for part in PARTS.values() for trial in part]
    assert len({tuple(trial.key.values()) for trial in trials}) == len(trials)
    assert len({trial.folder for trial in trials}) == len(trials)
    assert all((PROJECT / trial.config).is_file() for trial in trials)
    assert {trial.method for trial in PARTS["table"]} == {path.stem for path in (PROJECT / "configs/camvid").iterdir()}
    assert tuple(trials[0].key) == accuracy_plan.KEY


@pytest.mark.parametrize("trial", PARTS["ablation"], ids=lambda trial: trial.row)
def test_an_ablation_changes_what_its_configuration_has(trial):
    settings = runs.resolve(config.load(PROJECT / trial.config), trial.config).method.model_dump()
    for key, value in trial.settings.items():
        assert settings[key.removeprefix("method.")] != value


def line(row, seed, miou, partition="1_32"):
    return {"part": "table", "row": row, "partition": partition, "seed": seed, "report_miou": str(miou / 100)}


def test_the_table_has_gains_over_the_better_twin_and_the_part_of_the_distance():
    lines = [line("supervised", "0", 40), line("supervised", "1", 42), line("supervised, longer", "0", 43),
             line("supervised, longer", "1", 41), line("gta", "0", 50), line("gta", "1", 48)]  # fmt: skip
    text = accuracy_report.table(lines, "report_miou", ceiling=56)
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
            for cells in (row.split("|") for row in text.splitlines()[2:])}  # fmt: skip
    assert rows["supervised, longer"] == ["42.0 ± 1.4", "", ""]  # the better one
    assert rows["supervised"] == ["41.0 ± 1.4", "-1.0 ± 2.8", "-0.07"]
    assert rows["gta"] == ["49.0 ± 1.4", "7.0 ± 0.0", "0.50"]


def test_what_a_step_costs_is_read_from_what_step_cost_prints(tmp_path, results):
    path = tmp_path / "step_cost.md"
    rows = [step_cost.COLUMNS, ["---"] * 8, ["gta", "11", "750", *"12345"], ["supervised", "11", "250", *"12345"]]
    path.write_text("\n".join(f"| {' | '.join(row)} |" for row in rows))
    cost = accuracy_figures.relative_cost(path)
    assert cost == {"gta": 3, "supervised": 1}
    lines = [line("supervised", "0", 40), line("gta", "0", 50), line("gta", "1", 48), line("gta", "0", 53, "1_16"),
             line("all labels", "0", 60, "all"), line("supervised, longer", "0", 41)]  # fmt: skip
    first, second = accuracy_figures.draw_cost(lines, cost).axes
    assert {(text.get_text(), *map(float, text.xy)) for text in first.texts if text.get_text() in cost} == {
        ("gta", 3, 49), ("supervised", 1, 40)}  # fmt: skip
    assert [text.get_text() for text in second.texts] == ["gta", "all labels"]


def test_curves_are_drawn_of_one_part(results):
    for row, part in (("gta", "study"), ("oracle", "study"), ("gta", "table")):
        key = {"part": part, "row": row, "partition": "1_32", "seed": "0"}
        told = "" if row == "oracle" else 0.3
        classes = json.dumps({"sky": 0.2} if told else {})
        with accuracy.alone():
            accuracy.put(accuracy.CURVES, [{**key, "step": step, "miou": 0.4, "pseudo_miou": told,
                                            "pseudo_classes": classes} for step in (1, 2)])  # fmt: skip
    (panel,) = accuracy_figures.draw_curves("study").axes
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["gta", "oracle"]
    assert len(panel.lines) == 3  # pseudo-labels of the one that has them
    drawn = [panel for panel in accuracy_figures.draw_classes("study").axes if panel.lines]
    assert [panel.get_title() for panel in drawn] == ["gta"]
