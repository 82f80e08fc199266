"""The data of a run: written down as it begins, compared when it is continued; what becomes bad meanwhile."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.runs_for_tests import (
    assert_same_bits,
    checkpointed,
    configuration,
    fit_and_cut,
    image_name,
    label_name,
    table,
    write_configuration,
    write_data,
    write_list,
)
from tests.test_mistakes import fails
from tfssl import data_of_run, fit
from tfssl.data import check as checking
from tfssl.data import manifest
from tfssl.data.digit_scenes import digit_scenes
from tfssl.data.image_folder import image_folder
from tfssl.data.split_lists import split_lists
from tfssl.errors import UserError

CLASSES = ("sky", "ground", "tree")
LISTS = {name: f"{name}.txt" for name in ("labeled", "unlabeled", "validation")}
MEAN_TEACHER = {"name": "mean_teacher"}


pytestmark = pytest.mark.usefixtures("tiny_surroundings")


@pytest.fixture
def root(tmp_path):
    return write_data(tmp_path / "data")


def prepare(root, tmp_path, on_bad_file="skip", **data):
    content = configuration(root, method=MEAN_TEACHER, data={"on_bad_file": on_bad_file, **data})
    return write_configuration(tmp_path / "run.json", content)


def spoiling(monkeypatch, spoil):
    """What is done to the data when they were checked, before the first batch is read."""
    hold = data_of_run.hold
    monkeypatch.setattr(data_of_run, "hold", lambda *given: (hold(*given), spoil()))


def files_of(root, names):
    return {name: (root / name).read_bytes() for name in names}


def bring_back(root, files):
    for name, content in files.items():
        (root / name).write_bytes(content)


@pytest.mark.slow
def test_a_run_goes_on_without_what_becomes_bad(root, tmp_path, monkeypatch, capsys):
    """To the end; and cut and continued it ends with the same bits, also where the files have come back meanwhile."""
    path = prepare(root, tmp_path)
    bad = [image_name(2), label_name(1), image_name(5), label_name(8)]
    files = files_of(root, bad)
    with monkeypatch.context() as patch:
        spoiling(patch, lambda: [(root / name).unlink() for name in bad])
        fit.fit(path, output_dir=tmp_path / "whole")
        rows = table(tmp_path / "whole/bad_files.csv")
        assert {row["file"] for row in rows} == set(bad)
        told = capsys.readouterr()
        for row in rows:
            assert told.err.count(f": {row['file']} is not there any more; passed over from here on") == 1
        assert "4 file(s) that became bad in training were passed over" in told.out
        assert json.loads((tmp_path / "whole/metrics.json").read_text())["images"] == 2
        report = (tmp_path / "whole/report.html").read_text()
        assert "passed over: 4" in report and f"{label_name(8)} is not there any more" in report
        bring_back(root, files)
        fit_and_cut(path, tmp_path / "cut", 5)
    shutil.copytree(tmp_path / "cut", tmp_path / "back")
    fit.fit(path, output_dir=tmp_path / "cut")
    bring_back(root, files)
    fit.fit(path, output_dir=tmp_path / "back")
    for name in ("cut", "back"):
        assert_same_bits(checkpointed(tmp_path / name), checkpointed(tmp_path / "whole"))
        assert table(tmp_path / name / "history.csv", ["seconds"]) == table(tmp_path / "whole/history.csv", ["seconds"])
        assert sorted(map(str, table(tmp_path / name / "bad_files.csv"))) == sorted(map(str, rows))


@pytest.mark.slow
def test_by_default_the_run_stops_and_goes_on_when_the_file_is_back(root, tmp_path, monkeypatch, capsys):
    path, folder = prepare(root, tmp_path, "fail"), tmp_path / "run"
    fit.fit(path, output_dir=tmp_path / "whole")
    fit_and_cut(path, folder, 4)
    files = files_of(root, map(image_name, range(4)))
    with monkeypatch.context() as patch:
        spoiling(patch, lambda: [(root / name).write_bytes(b"") for name in files])
        last, before = fails(capsys, fit.main, path, "--output-dir", folder)
    assert before == [] and f"is empty; the checkpoints in {folder} are kept; bring it back as it was" in last
    assert checkpointed(folder, 3) and not (folder / "bad_files.csv").exists()
    last, before = fails(capsys, fit.main, path, "--output-dir", folder)
    assert "4 bad file(s)" in last and len(before) == 4
    bring_back(root, files)
    fit.fit(path, output_dir=folder)
    assert_same_bits(checkpointed(folder), checkpointed(tmp_path / "whole"))


@pytest.mark.slow
def test_too_many(root, tmp_path, monkeypatch, capsys):
    """The run stops; the limit may be raised, as the policy may be changed, when it is continued."""
    path, folder = prepare(root, tmp_path, "fail"), tmp_path / "run"
    fit_and_cut(path, folder, 4)
    arguments = [str(path), "--output-dir", str(folder), "--set", "data.on_bad_file=skip", "--set"]
    with monkeypatch.context() as patch, pytest.raises(UserError, match="data.bad_files_limit 1.*raise the limit"):
        spoiling(patch, lambda: [(root / image_name(number)).unlink() for number in (0, 1, 8, 9)])
        fit.main([*arguments, "data.bad_files_limit=1"])
    assert len(table(folder / "bad_files.csv")) == 1
    with pytest.raises(UserError, match="changed or missing .*or choose another --output-dir"):
        fit.main([*arguments, "data.bad_files_limit=1"])
    fit.main([*arguments, "data.bad_files_limit=4"])
    assert len(table(folder / "bad_files.csv")) == 4


# The manifest


def load(root, **changes):
    return split_lists(root=str(root), **LISTS | {"classes": CLASSES} | changes)


def test_what_is_written(root, tmp_path):
    path = prepare(root, tmp_path, "fail")
    fit_and_cut(path, tmp_path / "run", 4)
    found = json.loads((tmp_path / "run/data.json").read_text())
    assert found["sets"]["labeled"] == [f"{n}.png\tlabels/{n}.png" for n in range(4)]
    assert found["sets"]["unlabeled"] == [f"{n}.png" for n in range(4, 8)]
    assert found["images"] == {"labeled": 4, "unlabeled": 4, "validation": 3} and found["left_out"] == []
    assert len(found["files"]) == 4 + 4 + 4 + 3 + 3
    for name, told in found["files"].items():
        content = (root / name).read_bytes()
        assert told == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    source = load(root)  # anybody can make its digest from that file
    told = json.dumps({key: found[key] for key in ("origin", "sets", "files")}, sort_keys=True)
    assert hashlib.sha256(told.encode()).hexdigest() == manifest.digest(source)


def rewritten(root, name):
    Image.open(root / name).save(root / name, compress_level=0)


CHANGES = {
    "another image": (lambda root: rewritten(root, "2.png"), "1 changed or missing (2.png)"),
    "another label": (lambda root: rewritten(root, label_name(9)), "1 changed or missing (labels/9.png)"),
    "many": (lambda root: [rewritten(root, label_name(n)) for n in (0, 1, 2, 3, 8)],
             "5 changed or missing (labels/0.png, labels/1.png, labels/2.png, ...)"),
    "one less": (lambda root: write_list(root, "labeled", [0, 1, 2]), "2 missing (3.png, labels/3.png)"),
    "one more": (lambda root: (shutil.copy(root / "4.png", root / "new.png"),
                               (root / "unlabeled.txt").open("a").write("new.png\n")), "1 new (new.png)"),
    "another order": (lambda root: write_list(root, "labeled", [1, 0, 2, 3]), "data.labeled names other examples"),
}  # fmt: skip


def test_other_data_are_refused(root, tmp_path, monkeypatch, capsys):
    """And a second start opens only what has changed."""
    path, good, opened = prepare(root, tmp_path, "fail"), tmp_path / "good", []
    shutil.copytree(root, good)
    fit_and_cut(path, tmp_path / "run", 4)
    inspect = checking.inspect
    monkeypatch.setattr(checking, "inspect", lambda contents, role: opened.append(role) or inspect(contents, role))
    for name, (change, says) in CHANGES.items():
        change(root)
        last, before = fails(capsys, fit.main, path, "--output-dir", tmp_path / "run")
        assert before == [] and says in last and f"{tmp_path / 'run'}: " in last, name
        assert "another --output-dir" in last and (opened == ["image"] or name != "another image")
        shutil.rmtree(root)
        shutil.copytree(good, root)


@pytest.mark.slow
def test_before_the_first_checkpoint_other_data_are_no_fault(root, tmp_path):
    path = prepare(root, tmp_path, "fail")
    fit_and_cut(path, tmp_path / "run", 2)
    rewritten(root, label_name(2))
    fit_and_cut(path, tmp_path / "run", 2)
    told = json.loads((tmp_path / "run/data.json").read_text())["files"][label_name(2)]
    assert told["bytes"] == (root / label_name(2)).stat().st_size


def test_a_finished_run_that_falls_back_is_not_finished_on_other_data(root, tmp_path, capsys):
    path, folder = prepare(root, tmp_path, "fail"), tmp_path / "run"
    fit.fit(path, output_dir=folder)
    newest = max((folder / "checkpoints").glob("*.index"), key=lambda save: save.stat().st_mtime)
    newest.write_bytes(b"")
    rewritten(root, label_name(2))
    for says in (f"1 changed or missing ({label_name(2)})", "data.json: is not what was written"):
        with pytest.raises(UserError) as refused:
            fit.fit(path, output_dir=folder)
        assert says in str(refused.value)
        (folder / "data.json").write_text("{}")


def test_digests(root, tmp_path):
    """Of what is in the data, not of where they are."""
    first = manifest.digest(load(root))
    moved = root.rename(tmp_path / "elsewhere")
    assert manifest.digest(load(moved)) == first and len(first) == 64
    rewritten(moved, label_name(9))
    changed = manifest.digest(load(moved))
    write_list(moved, "labeled", [0, 1, 2])
    fewer = manifest.digest(load(moved))
    scenes = [manifest.digest(digit_scenes(labeled_scenes=count)) for count in (3, 4)]
    assert len({first, changed, fewer, *scenes}) == 5


def test_folders_that_lose_a_file_are_not_dealt_out_anew(root, tmp_path):
    """Continued; whatever was in no set of the run before is told."""
    (root / "images").mkdir()
    for path in [*root.glob("*.png"), *root.glob("*.jpg")]:
        path.rename(root / "images" / path.name)
    given = {"root": str(root), "masks": "labels", "classes": CLASSES}
    before = image_folder(**given)
    gone = before.labeled.lines[1].split("\t")
    (root / gone[1]).unlink()
    assert image_folder(**given).sets["validation"].names != before.validation.names or (
        image_folder(**given).labeled.names != before.labeled.names
    )
    with manifest.continuing(manifest.of(before)):
        again = image_folder(**given, on_bad_file="skip")
        assert manifest.of(again) == manifest.of(before)
        shutil.copy(root / before.labeled.names[0], root / "images/new.png")
        with pytest.raises(UserError, match=r"1 new .images/new.png.*another --output-dir"):
            image_folder(**given, on_bad_file="skip")
    assert np.all(again.validation.label(0) == before.validation.label(0))
