"""One finished run of robust mutual learning with all its exports, for the tests of what a run leaves behind."""

import shutil

import pytest

from tests.runs_for_tests import configuration, surroundings, write_configuration, write_data
from tfssl import fit


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The configuration file and the folder."""
    place = tmp_path_factory.mktemp("finished")
    root = write_data(place / "data")
    content = configuration(
        root, data={"held_out": "held_out.txt"}, method={"name": "robust_mutual", "stages": 2},
        training={"steps": 6, "evaluate_every": 4}, export={"saved_model": True, "onnx": True},
    )  # fmt: skip
    path = write_configuration(place / "run.json", content)
    with surroundings(place):
        fit.fit(path, output_dir=place / "run")
    return path, place / "run"


@pytest.fixture
def run(finished, tmp_path):
    """The configuration file of the finished run, and a copy of its folder that a test may change."""
    path, folder = finished
    return path, shutil.copytree(folder, tmp_path / "run")
