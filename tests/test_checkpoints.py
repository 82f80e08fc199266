"""Whatever happens to the files of the newest save, the one before serves and that is told; never a wrong value."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.networks_for_tests import make_batch, make_method, step, tiny_network
from tfssl import checkpoints, selection
from tfssl.checkpoints import Checkpoints
from tfssl.errors import UserError

FILES = ("ckpt-2.index", "ckpt-2.data-00000-of-00001", "ckpt-2.sha256")


def state(saves):
    return [value.numpy() for value in (*saves.state.method, *saves.state.meters, *saves.state.optimizer)]


def equal(first, second):
    return all(one.tobytes() == other.tobytes() for one, other in zip(first, second, strict=True))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder of two saves, {step: all values}, what opens such a folder anew)."""
    folder, method, values = tmp_path_factory.mktemp("saved"), make_method("mean_teacher", rate=0.02), {}
    saves = Checkpoints(method, folder)
    for number in (1, 2):
        step(method, make_batch(number))
        saves.save(number)
        values[number] = state(saves)
    assert not equal(values[1], values[2])

    def reopen(place):
        """Over variables that hold something else."""
        for variable in (*saves.state.method, *saves.state.meters, *saves.state.optimizer):
            variable.assign(tf.cast(tf.fill(variable.shape, 7), variable.dtype))
        return Checkpoints(method, place)

    return folder, values, reopen


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "checkpoints")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(place):
    def flipped(path):
        content = bytearray(path.read_bytes())
        content[int(place * (len(content) - 1))] ^= 1 << 4
        path.write_bytes(content)

    flipped.__name__ = f"flip_at_{place}"
    return flipped


def grow(path):
    path.write_bytes(path.read_bytes() + b"\0")


def delete(path):
    path.unlink()


HARMS = (truncate, empty, flip(0), flip(0.37), flip(0.5), flip(0.93), flip(1), grow, delete)


def test_what_was_saved_is_restored_without_a_word(saved, folder, capsys):
    saves = saved[2](folder)
    assert saves.restore() and saves.saved == 2 and equal(state(saves), saved[1][2])
    assert {path.name for path in folder.iterdir()} == {
        "checkpoint", *(name.replace("2.", f"{n}.") for n in (1, 2) for name in FILES)}  # fmt: skip
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("name", FILES)
def test_of_a_damaged_newest_save_the_one_before_serves(saved, folder, capsys, name, harm):
    harm(folder / name)
    saves = saved[2](folder)
    assert saves.restore() and saves.saved == 1 and equal(state(saves), saved[1][1])
    (line,) = capsys.readouterr().err.splitlines()
    how = f"{name} is missing" if harm is delete else f"{name} is not what was written"
    if name.endswith("sha256") and harm not in (delete,):  # which of the two is wrong cannot be told
        how = "is "
    assert line.startswith(f"warning: {folder / 'ckpt-2'}: ") and how in line and line.endswith("going by ckpt-1")


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_a_damaged_state_file_loses_nothing(saved, folder, capsys, harm):
    harm(folder / "checkpoint")
    saves = saved[2](folder)
    assert saves.restore() and saves.saved == 2 and equal(state(saves), saved[1][2])
    told = capsys.readouterr().err.splitlines()
    assert len([line for line in told if "warning: " in line and "going by ckpt-2" in line]) <= 1
    if harm in (delete, empty, truncate):
        assert f"{folder / 'checkpoint'}: is " in told[-1]


@pytest.mark.parametrize("harm", [truncate, flip(0.5), delete], ids=lambda harm: harm.__name__)
def test_if_all_are_damaged_the_user_decides(saved, folder, harm):
    for number in (1, 2):
        harm(folder / f"ckpt-{number}.data-00000-of-00001")
    with pytest.raises(UserError, match="no save is left that can be read .*ckpt-2: .*ckpt-1: .* delete that folder"):
        saved[2](folder).restore()
    for path in folder.glob("ckpt-*"):
        path.unlink()
    with pytest.raises(UserError, match="ckpt-1.sha256 is missing"):
        saved[2](folder).restore()


def test_a_first_save_that_was_cut_is_none(saved, folder):
    (folder / "checkpoint").unlink()
    for number in (1, 2):
        (folder / f"ckpt-{number}.sha256").unlink()
    saves = saved[2](folder)
    assert not saves.restore() and not Checkpoints.restore(saved[2](folder / "nothing"))
    saves.save(3)
    assert {path.name for path in folder.iterdir()} == {"checkpoint", *(name.replace("2.", "3.") for name in FILES)}


def test_the_damaged_one_is_not_kept_in_place_of_a_good_one(saved, folder, capsys):
    truncate(folder / FILES[1])
    (folder / "ckpt-9.data-00000-of-00001.tempstate12").write_bytes(b"of a save that was cut")
    (folder / "ckpt-9_temp").mkdir()
    saves = saved[2](folder)
    assert saves.restore()
    saves.save(3)
    assert {path.name for path in folder.iterdir()} == {
        "checkpoint", *(name.replace("2.", f"{n}.") for n in (1, 3) for name in FILES)}  # fmt: skip
    truncate(folder / FILES[1].replace("2.", "3."))
    saves = saved[2](folder)
    assert saves.restore() and saves.saved == 1 and equal(state(saves), saved[1][1])


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_kill_within_a_save_leaves_the_one_before(saved, folder, monkeypatch, moment):
    """At every call that puts something on the disk in turn, until a save has had them all."""

    class Killed(BaseException):
        pass

    honest, count = getattr(checkpoints.os, moment), 0
    for last in range(20):
        place, calls = folder.with_name(f"{moment}{last}"), iter(range(last))

        def cut(*arguments, calls=calls):
            if next(calls, None) is None:
                raise Killed
            return honest(*arguments)

        shutil.copytree(folder, place)
        saves = saved[2](place)
        saves.restore()
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints.os, moment, cut)
            try:
                saves.save(3)
            except Killed:
                count += 1
            else:
                break
        after = saved[2](place)
        assert after.restore() and after.saved in (2, 3) and equal(state(after), saved[1][2])
    assert count >= 1 and saved[2](place).restore()


# The network that was best.


@pytest.mark.parametrize("harm", HARMS[:-1], ids=lambda harm: harm.__name__)
def test_a_damaged_best_network_is_never_shipped(tmp_path, harm):
    network = tiny_network(1)
    selection.Best(tmp_path).offer(network, 3, 0.5)
    kept = network.get_weights()
    harm(tmp_path / "best.npz")
    try:
        best = selection.Best(tmp_path)
        best.restore(network)
    except UserError as error:
        assert "best.npz: is not what was written" in str(error) and "delete that file" in str(error)
    else:  # a bit of the archive that means nothing
        assert (best.step, best.score) == (3, 0.5)
        for one, other in zip(kept, network.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
