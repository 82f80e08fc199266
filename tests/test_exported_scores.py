"""The network of a run, its SavedModel and its ONNX file have the same score."""

import json
from pathlib import Path

import pytest

from tests.runs_for_tests import configuration, surroundings, write_configuration, write_data
from tfssl import errors, evaluate, fit

PROJECT = Path(fit.__file__).parent.parent
CAMVID = PROJECT.parent / "shared" / "camvid"


def scores(folder, *overrides):
    """{kind: (score, images) on the validation list} by tfssl.evaluate."""
    found = {}
    for kind in ("network", "saved_model", "onnx"):
        arguments = [word for text in overrides for word in ("--set", text)]
        evaluate.main([str(folder), *arguments, *([] if kind == "network" else ["--exported", kind])])
        name = "metrics_validation.json" if kind == "network" else f"metrics_validation_{kind}.json"
        metrics = json.loads((folder / name).read_text())
        found[kind] = (next(iter(metrics["networks"].values()))["miou"], metrics["images"])
    return found


def assert_equal_scores(found, images, least):
    for kind, (miou, count) in found.items():
        assert count == images and miou == pytest.approx(found["network"][0], abs=1e-4), kind
    assert found["network"][0] > least


@pytest.mark.parametrize("size", [None, [36, 48]])
def test_of_a_tiny_run(size, tmp_path):
    with surroundings(tmp_path):
        content = configuration(write_data(tmp_path / "data"), export={"saved_model": True, "onnx": True},
                                training={"steps": 20})  # fmt: skip
        content["data"] |= {"size": size} if size else {}
        folder = fit.fit(write_configuration(tmp_path / "run.json", content), output_dir=tmp_path / "run")
        assert_equal_scores(scores(folder), 3, 0.3)
        if size is None:  # else windows would be cut before the resizing that is inside of the export
            assert_equal_scores(scores(folder, "evaluation.protocol=sliding", "evaluation.crop=[24, 24]"), 3, 0.2)


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
