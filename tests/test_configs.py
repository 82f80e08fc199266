"""The configurations that come with the project: each is valid, says what it is, and runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs_for_tests import table
from tfssl import config, fit, runs
from tfssl.methods import METHODS

PROJECT = Path(fit.__file__).parent.parent
FILES = sorted((PROJECT / "configs").rglob("*.json"))
EMBEDDED = sorted((PROJECT / "configs").glob("*.json"))
CAMVID = PROJECT.parent / "shared" / "camvid"
ORDER = ["about", "seed", "deterministic", "data", "task", "networks", "method", "training", "evaluation", "export"]
SHORT = ["training.steps=4", "training.evaluate_every=4", "training.checkpoint_every=4", "training.log_every=1",
         "evaluation.pictures=1"]  # fmt: skip
FEW = [f"data.{name}_scenes=6" for name in ("held_out", "validation", "test")]
DENOISE = "_denoise"
SYSTEMS = {"robust_mutual", "u2pl", "cross_teacher", "gta", "gct", "gct_denoise"}  # the others take `make soak`
FURTHER = {
    "adversarial",
    "classmix",
    "cps",
    "cross_teacher",
    "fixmatch",
    "gct",
    "gta",
    "guided_mean_teacher",
    "mutual",
    "s4l",
    "u2pl",
    "unimatch",
}  # on the embedded data alone


def name_of(path):
    return str(path.relative_to(PROJECT))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_configuration_is_valid_and_in_the_order_of_the_data(path):
    content = json.loads(path.read_text())
    assert list(content) == [key for key in ORDER if key in content] and content["about"].endswith(".")
    settings = runs.resolve(config.load(path), path)
    if path.parent.name != "paper":  # those are named after the paper and its data
        assert settings.method.name == path.stem.removesuffix(DENOISE)


YARDSTICKS = {"cutmix", "mean_teacher", "robust_mutual", "supervised"}
METHODS_OF = {"configs": YARDSTICKS | FURTHER, "configs/camvid": set(METHODS)}


@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize("folder", METHODS_OF)
def test_the_yardsticks_differ_from_the_main_job_in_the_method_alone(folder, denoise):
    def rest(path):
        content = json.loads(path.read_text())
        content["networks"] = content.get("networks", [])[:1]  # a second one is the method's, and does not ship
        return {key: value for key, value in content.items() if key not in ("about", "method")}

    paths = [path for path in (PROJECT / folder).glob("*.json") if path.stem.endswith(DENOISE) == denoise]
    expected = METHODS_OF[folder]
    if denoise:
        expected = {"gct_denoise", "supervised_denoise"} if folder == "configs" else set()
    assert {path.stem for path in paths} == expected
    assert all(rest(path) == rest(paths[0]) for path in paths)


def test_each_has_a_folder_of_its_own():
    assert len({fit.default_folder(path) for path in FILES}) == len(FILES)
    assert fit.default_folder("configs/camvid/supervised.json") == Path("runs/camvid/supervised")
    assert fit.default_folder("somewhere/mine.json") == fit.default_folder("mine.json") == Path("runs/mine")


@pytest.mark.parametrize("path", [
    pytest.param(path, id=name_of(path), marks=pytest.mark.slow if path.stem in SYSTEMS else pytest.mark.soak)
    for path in EMBEDDED])  # fmt: skip
def test_the_embedded_configurations_run_to_their_exports(path, tmp_path):
    """As a user runs them: in a process of its own, which also gives the memory back."""
    few = ["data.validation=2", "data.held_out=2"] if path.stem.endswith(DENOISE) else FEW
    folder, overrides = tmp_path / "run", [word for value in (*SHORT, *few) for word in ("--set", value)]
    command = [sys.executable, "-m", "tfssl.fit", str(path), "--output-dir", str(folder), *overrides]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [row["step"] for row in table(folder / "history.csv")] == ["1", "2", "3", "4"]
    assert (folder / "export" / "saved_model" / "1").is_dir()
    assert (folder / "export" / "onnx" / "1" / "model.onnx").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not CAMVID.is_dir(), reason="CamVid is not there, it does not come with the project")
@pytest.mark.parametrize("partition", ["1_16", "1_32"])
def test_the_camvid_configurations_read_their_data(partition):
    path = PROJECT / "configs" / "camvid" / "robust_mutual.json"
    settings = runs.resolve(config.load(path, [f"data.root={CAMVID}", f"data.partition={partition}"]), path)
    source = runs.make_source(settings)
    assert source.labeled.count == {"1_16": 23, "1_32": 11}[partition]
    assert source.labeled.count + source.unlabeled.count == 367
    assert tuple(source.labeled.image(0).shape) == (180, 240, 3)
