"""How exports come to their places: whole, by one rename, in versions that never change, one export at a time."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.exports_for_tests import product, tiny_network
from tfssl import disk, errors, folders
from tfssl.errors import UserError
from tfssl.export import bundle, c_api, export, package
from tfssl.export.structured import structured_images

PROJECT = Path(package.__file__).parents[2]


@pytest.fixture
def quick(monkeypatch):
    """Exports that write a few bytes in place of a network, for what is about their places alone."""

    def write_saved_model(made, path):
        path.mkdir()
        (path / "assets.extra").mkdir()
        (path / "saved_model.pb").write_bytes(b"graph")

    monkeypatch.setattr(package, "write_saved_model", write_saved_model)
    monkeypatch.setattr(package, "write_onnx", lambda made, path: path.write_bytes(b"graph"))
    monkeypatch.setattr(package, "check_parity", lambda *arguments: [])
    monkeypatch.setattr(package.runtimes, "onnx_runtime", lambda model: lambda images: {"mask": images[..., 0]})


@pytest.fixture(scope="module")
def made():
    return product(tiny_network())


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_versions_count_up_over_both_files_and_are_never_overwritten(quick, made, tmp_path):
    for name in ("saved_model/001", "saved_model/4", "onnx/6", "saved_model/.tmp-9", "saved_model/notes", "onnx/7a"):
        (tmp_path / name).mkdir(parents=True)
    result = export(made, tmp_path, onnx=False)
    assert result["version"] == 7 and result["saved_model"].name == "7" and "onnx" not in result
    before = contents(tmp_path / "saved_model" / "7")
    assert export(made, tmp_path)["version"] == 8
    assert export(made, tmp_path, version=12)["onnx"] == tmp_path / "onnx" / "12" / "model.onnx"
    assert export(made, tmp_path)["version"] == 13
    for taken in (1, 4, 6, 7, 12):
        with pytest.raises(UserError, match=f"{taken} exists: choose another version"):
            export(made, tmp_path, version=taken)
    for wrong in (0, -1, "2", 1.5):
        with pytest.raises(UserError, match="give a whole number from 1 on"):
            export(made, tmp_path, version=wrong)
    assert contents(tmp_path / "saved_model" / "7") == before
    assert sorted(path.name for path in (tmp_path / "onnx").iterdir()) == ["12", "13", "6", "7a", "8"]
    report = json.loads((tmp_path / "parity.json").read_text())
    assert (report["version"], report["saved_model"], report["onnx"]) == (13, "saved_model/13", "onnx/13")


def test_the_newest_version_is_the_greatest_number(quick, made, tmp_path):
    for version in (9, 10):
        export(made, tmp_path, version=version)
    (tmp_path / "onnx" / "notes").mkdir()
    assert folders.published(tmp_path) == {"saved_model": tmp_path / "saved_model" / "10",
                                           "onnx": tmp_path / "onnx" / "10" / "model.onnx"}  # fmt: skip
    assert folders.published(tmp_path / "nowhere") == {}


def test_a_version_that_appears_meanwhile_is_not_replaced(quick, made, tmp_path, monkeypatch):
    check = package.check_parity

    def meanwhile(*arguments):
        (tmp_path / "saved_model" / "1").mkdir(parents=True)  # empty: a rename would replace it without a word
        return check(*arguments)

    monkeypatch.setattr(package, "check_parity", meanwhile)
    with pytest.raises(UserError, match=r"saved_model/1: cannot publish the export there \(it is there already\)"):
        export(made, tmp_path, onnx=False)
    assert list((tmp_path / "saved_model" / "1").iterdir()) == []


def test_what_an_ended_export_left_is_removed_by_the_next(quick, made, tmp_path):
    left = tmp_path / ".partial-abc" / "saved_model"
    left.mkdir(parents=True)
    (left / "saved_model.pb").write_bytes(b"half")
    export(made, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["onnx", "parity.json", "saved_model"]


def fails(capsys, *arguments, **options):
    """The one line that a command says where an export fails."""
    with pytest.raises(SystemExit) as end:
        errors.run(lambda _: export(*arguments, **options), [])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith("error: ")
    return line


def test_a_second_export_at_the_same_time_is_told_so(quick, made, tmp_path, capsys):
    (tmp_path / ".partial-of-the-first").mkdir()
    with folders.alone_in(tmp_path, "exporting"):
        line = fails(capsys, made, tmp_path)
    assert f"{tmp_path}: another process is exporting there; wait" in line
    assert [path.name for path in tmp_path.iterdir()] == [".partial-of-the-first"]  # not the second's to remove
    assert export(made, tmp_path)["version"] == 1


@pytest.mark.parametrize("below", ["file", "file/export"])
def test_a_place_below_a_file_is_told_in_one_line(quick, made, tmp_path, capsys, below):
    (tmp_path / "file").write_text("in the way")
    assert f"{tmp_path / below}: cannot write there" in fails(capsys, made, tmp_path / below)


@pytest.mark.parametrize("kind", ["onnx", "saved_model"])
def test_a_file_where_the_versions_should_be_is_told_in_one_line(quick, made, tmp_path, capsys, kind):
    (tmp_path / kind).write_text("in the way")
    assert f"{tmp_path / kind}/1: cannot publish the export there" in fails(capsys, made, tmp_path)
    assert (tmp_path / kind).read_text() == "in the way"


def test_a_folder_that_cannot_be_written_is_told_in_one_line(quick, made, tmp_path, capsys, monkeypatch):
    """As a disk that is read-only says it; permissions do not keep the superuser out."""

    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkdtemp", refuse)
        assert f"{tmp_path}: cannot write there (Read-only file system)" in fails(capsys, made, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        line = fails(capsys, made, tmp_path)
    assert f"{tmp_path}/onnx/1: cannot publish the export there (Read-only file system)" in line
    assert not [path for path in tmp_path.rglob("*") if path.name.isdecimal()]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_permissions_are_told_in_one_line(quick, made, tmp_path, capsys):
    tmp_path.chmod(0o555)
    assert "cannot write there (Permission denied)" in fails(capsys, made, tmp_path)


def test_everything_is_on_the_disk_before_its_number_is(quick, made, tmp_path, monkeypatch):
    """Else a power cut leaves a number with empty files below it: all is flushed, then renamed, then the name."""
    flush, replace, events = disk.flush, os.replace, []
    monkeypatch.setattr(disk, "flush", lambda path: (events.append(path), flush(path)))
    monkeypatch.setattr(os, "replace", lambda part, place: (events.append((part, place)), replace(part, place)))
    export(made, tmp_path, onnx=False)
    at = next(n for n, event in enumerate(events) if isinstance(event, tuple) and event[1].name == "1")
    part, place = events[at]
    flushed = {path.relative_to(part) for path in events[:at] if not isinstance(path, tuple)}
    assert flushed == {path.relative_to(place) for path in [place, *place.rglob("*")]}
    assert events[at + 1] == place.parent


# Killed at any moment.


def killed(exported, folder, kinds):
    """Exports in a loop, each loop killed at a random moment; for each kill whether something unfinished was left."""
    source = exported["saved_model"].parents[1]
    command = [sys.executable, "-m", "tests.kills_for_tests", str(source), str(folder), *kinds]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60 + 60 * len(kinds))
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def assert_whole(exported, folder):
    """Every number below `folder` is a whole version, and there are some."""
    right = {path.relative_to(exported["saved_model"]) for path in exported["saved_model"].rglob("*")}
    images = structured_images(1, 9, 13)
    expected = c_api.SavedModel(exported["saved_model"])("predict_uint8", image=images)["mask"]
    models = [path for path in (folder / "saved_model").glob("*") if path.name.isdecimal()]
    for place in models:
        assert {path.relative_to(place) for path in place.rglob("*")} == right
        model = c_api.SavedModel(place)
        np.testing.assert_array_equal(model("predict_uint8", image=images)["mask"], expected)
        model.close()
    bundles = [path for path in (folder / "onnx").glob("*") if path.name.isdecimal()]
    for place in bundles:
        assert {path.name for path in place.iterdir()} == {path.name for path in exported["onnx"].parent.iterdir()}
        done = subprocess.run(["sha256sum", "--status", "--strict", "-c", "SHA256SUMS"], cwd=place)
        assert done.returncode == 0, place
    assert models and bundles


def check_kills(exported, folder, kinds):
    kills = killed(exported, folder, kinds)
    assert len(kills) == len(kinds) and all(kill["signal"] == signal.SIGKILL for kill in kills)
    assert any(kill["left"] for kill in kills), "no kill hit an export"
    assert_whole(exported, folder)
    before = max(int(path.name) for kind in ("saved_model", "onnx") for path in (folder / kind).iterdir()
                 if path.name.isdecimal())  # fmt: skip
    assert export(product(), folder, sizes=[(9, 13)])["version"] == before + 1
    assert not list(folder.glob(".partial-*"))
    report = json.loads((folder / "parity.json").read_text())
    assert report["version"] == before + 1


@pytest.mark.slow
def test_three_kills_leave_no_number_that_is_not_whole(exported, tmp_path):
    check_kills(exported, tmp_path / "export", ["real", "copied", "copied"])


@pytest.mark.soak
def test_thirty_kills_leave_no_number_that_is_not_whole(exported, tmp_path):
    check_kills(exported, tmp_path / "export", ["real", "copied"] * 15)


def test_the_check_of_kills_can_fail(exported, tmp_path):
    source = exported["saved_model"].parents[1]
    for part, keep in (("saved_model/1/assets/model.json", 0), ("onnx/1/model.onnx", 1000)):
        folder = tmp_path / part.split("/")[0]
        shutil.copytree(source, folder)
        content = (folder / part).read_bytes()
        (folder / part).unlink()
        if keep:
            (folder / part).write_bytes(content[:-keep])
        with pytest.raises(AssertionError):
            assert_whole(exported, folder)
    assert_whole(exported, source)


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bundle, "write_golden", full)
    with pytest.raises(UserError, match=r"export: cannot write the export there \(No space left on device\)"):
        export(product(), tmp_path / "export", saved_model=False, sizes=[(33, 47)])
    assert list((tmp_path / "export").iterdir()) == []
