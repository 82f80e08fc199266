"""The network of a run, its SavedModel and its ONNX file have the same score."""

import json
from pathlib import Path

import pytest

from tests.runs_for_tests import configuration, surroundings, write_configuration, write_data
from tfssl import errors, evaluate, fit
from tfssl.export.__main__ import main as export_main

PROJECT = Path(fit.__file__).parent.parent
CAMVID = PROJECT.parent / "shared" / "camvid"


def changed(*overrides):
    return [word for text in overrides for word in ("--set", text)]


def score(folder, kind="network", *overrides):
    """(score, images) of a run's network, or of what it has exported, on the validation list by tfssl.evaluate."""
    evaluate.main([str(folder), *changed(*overrides), *([] if kind == "network" else ["--exported", kind])])
    name = "metrics_validation.json" if kind == "network" else f"metrics_validation_{kind}.json"
    metrics = json.loads((folder / name).read_text())
    return next(iter(metrics["networks"].values()))["miou"], metrics["images"]


def scores(folder):
    return {kind: score(folder, kind) for kind in ("network", "saved_model", "onnx")}


def assert_equal_scores(found, images, least):
    for kind, (miou, count) in found.items():
        assert count == images and miou == pytest.approx(found["network"][0], abs=1e-4), kind
    assert found["network"][0] > least


@pytest.mark.parametrize("size", [[36, 48], pytest.param(None, marks=pytest.mark.slow)])
def test_of_a_tiny_run(size, tmp_path):
    with surroundings(tmp_path):
        content = configuration(write_data(tmp_path / "data"), export={"saved_model": True, "onnx": True},
                                training={"steps": 20})  # fmt: skip
        content["data"] |= {"size": size} if size else {}
        folder = fit.fit(write_configuration(tmp_path / "run.json", content), output_dir=tmp_path / "run")
        assert_equal_scores(scores(folder), 3, 0.3)
        confidences = [json.loads((folder / f"metrics_validation{name}.json").read_text())["networks"]
                       for name in ("", "_saved_model", "_onnx")]  # fmt: skip
        errors_of = [next(iter(networks.values()))["calibration_error"] for networks in confidences]
        assert errors_of == pytest.approx([errors_of[0]] * 3, abs=1e-4)
        assert_windows_are_those_of_evaluation(folder)


WINDOWS = "evaluation.crop=[24, 24]", "evaluation.overlap=0.25"


def assert_windows_are_those_of_evaluation(folder):
    """Chosen on exporting they score as evaluation's own; the ONNX file of the same export has none."""
    export_main([str(folder), *changed("export.sliding=true", "export.flip=true", *WINDOWS)])
    sliding = score(folder, "network", "evaluation.protocol=sliding", "evaluation.flip=true", *WINDOWS)
    assert score(folder, "saved_model") == pytest.approx(sliding, abs=1e-4)
    mirrored = score(folder, "network", "evaluation.flip=true")
    assert score(folder, "onnx") == pytest.approx(mirrored, abs=1e-4)
    assert abs(sliding[0] - mirrored[0]) > 1e-3  # else nothing is shown


def test_views_of_what_was_exported_were_chosen_then(finished, capsys):
    _, folder = finished
    for wrong in ("evaluation.flip=true",), ("evaluation.scales=[0.5, 1]",), ("evaluation.protocol=sliding", *WINDOWS):
        for kind in ("saved_model", "onnx"):
            with surroundings(folder.parent), pytest.raises(SystemExit) as end:
                errors.run(evaluate.main, [str(folder), *changed(*wrong), "--exported", kind])
            (line,) = capsys.readouterr().err.splitlines()
            assert end.value.code == 2 and line.startswith("error: --exported: windows and mirrored images")


def test_what_was_not_exported_is_told(tmp_path, capsys):
    with surroundings(tmp_path):
        content = configuration(write_data(tmp_path / "data"))
        folder = fit.fit(write_configuration(tmp_path / "run.json", content), output_dir=tmp_path / "run")
        with pytest.raises(SystemExit):
            errors.run(evaluate.main, [str(folder), "--exported", "onnx"])
    assert f"has no export as onnx; make one by python -m tfssl.export {folder}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not CAMVID.is_dir(), reason="CamVid is not there, it does not come with the project")
def test_on_the_validation_list_of_camvid(tmp_path):
    overrides = [f"data.root={CAMVID}", "training.steps=60", "training.evaluate_every=60", "method.ema_decay=0.9"]
    folder = fit.fit(PROJECT / "configs" / "camvid" / "supervised.json", overrides, tmp_path / "run")
    assert_equal_scores(scores(folder), 101, 0.2)
