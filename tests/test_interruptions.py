"""A run that is stopped, killed, frozen, doubled or has no room: what was saved stays, and the same command goes on."""

import errno
import fcntl
import os
import random
import re
import resource
import shutil
import signal
import stat
import subprocess
import time

import numpy as np
import pytest

from tests.contracts import CONTRACTS
from tests.cuts_for_tests import assert_same_run, kill_when, logged, saved, saving, start
from tests.runs_for_tests import (
    SEGFORMER,
    checkpointed,
    configuration,
    surroundings,
    table,
    write_configuration,
    write_data,
)
from tfssl import callbacks, disk, errors, fit, folders, interruptions, runs
from tfssl.checkpoints import Checkpoints
from tfssl.methods import METHODS

TRAINING = {"steps": 8, "checkpoint_every": 3, "evaluate_every": 4, "log_every": 1}


@pytest.fixture
def root(tmp_path):
    with surroundings(tmp_path):
        yield write_data(tmp_path / "data")


@pytest.fixture
def path(root, tmp_path):
    content = configuration(root, method={"name": "mean_teacher"}, training=TRAINING, data={"held_out": "held_out.txt"})
    return write_configuration(tmp_path / "run.json", content)


def command(path, folder):
    """The command, in this process: its exit status."""
    try:
        errors.run(fit.main, [str(path), "--output-dir", str(folder)])
    except SystemExit as end:
        return end.code
    return 0


def at(patch, owner, name, act, when=lambda *_: True):
    """Let act() happen once, just before a function of `owner` is called."""
    honest, done = getattr(owner, name), []

    def instead(*arguments, **named):
        if not done and when(*arguments):
            done.append(act())
        return honest(*arguments, **named)

    patch.setattr(owner, name, instead)


def newest(folder):
    return max(int(path.stem.partition("-")[2]) for path in (folder / "checkpoints").glob("ckpt-*.sha256"))


# SIGTERM.


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_saves_and_the_same_command_goes_on(path, tmp_path, monkeypatch, capsys):
    """In a step, while a network is scored, between steps and in the end; nothing of it is seen in what comes out."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert command(path, whole) == 0
    capsys.readouterr()

    def in_step(number):
        return lambda callback, *_: callback.run.step == number

    moments = [
        (runs, "make_source", lambda *_: True, None),  # before there is anything
        (callbacks.Log, "on_train_batch_end", in_step(2), 2),  # its step is finished first
        (callbacks.Evaluate, "evaluate", lambda callback, step: step == 4, 4),  # its scores are left to the next start
        (callbacks.Save, "on_train_batch_end", in_step(7), 7),
        (fit, "draw_examples", lambda *_: True, 8),
    ]
    for owner, name, when, step in moments:
        with monkeypatch.context() as patch:
            at(patch, owner, name, terminate, when)
            at(patch, disk, "flush", terminate, lambda _: interruptions.asked())  # again, while it saves
            assert command(path, cut) == 143
        told = [line for line in capsys.readouterr().err.splitlines() if "SIGTERM" in line]
        assert len(told) == 1 and "the same command goes on" in told[0]
        if step:
            assert newest(cut) == step and (step == 8 or f"saved after step {step}" in told[0])
    assert [row["step"] for row in table(cut / "evaluations.csv")] == ["4", "8"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert command(path, cut) == 0
    assert_same_run(whole, cut)
    assert not list(cut.rglob("*partial*"))


@pytest.mark.slow
def test_sigterm_ends_a_process_within_five_seconds_or_two_steps(root, tmp_path):
    training = TRAINING | {"steps": 5000, "checkpoint_every": 5000, "evaluate_every": 5000}
    content = configuration(root, networks=[SEGFORMER], method={"name": "mean_teacher"}, training=training)
    path, folder = write_configuration(tmp_path / "run.json", content), tmp_path / "run"
    process = start(path, folder)
    wait_for(process, logged(folder, 5))
    step, asked = last_step(folder), time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    seconds = time.monotonic() - asked
    assert seconds < 5 or newest(folder) <= step + 2, (seconds, step)
    assert newest(folder) == last_step(folder)
    assert len(re.findall("SIGTERM", folder.with_suffix(".log").read_text())) == 1


def wait_for(process, happened, timeout=300, pause=0.005):
    end = time.monotonic() + timeout
    while not happened():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(pause)


def last_step(folder):
    return int(table(folder / "history.csv")[-1]["step"])


# kill -9.


def random_moments(count, steps, seed):
    """So many moments in the order of their steps: in training, in a save, just after one; and some time after it."""
    draw = random.Random(seed)
    kinds = [(logged, draw.randrange(1, steps)) for _ in range(count - count // 2)]
    kinds += [(draw.choice([saving, saved]), 3 * draw.randrange(1, steps // 3)) for _ in range(count // 2)]
    return [(moment, step, draw.uniform(0, 0.03) * (moment is logged)) for moment, step in
            sorted(kinds, key=lambda kind: kind[1])]  # fmt: skip


THREE = {"robust_mutual", "u2pl", "gta"}
SLOW = [pytest.param(name, 2, 12, marks=pytest.mark.slow) for name in sorted(THREE - {"robust_mutual"})]
SOAK = [pytest.param(name, 20 if name in THREE else 5, 60 if name in THREE else 18, marks=pytest.mark.soak)
        for name in METHODS]  # fmt: skip
IN_STAGES = {"warm_up": 0.2, "stages": 2, "p0": "stage"}


@pytest.mark.parametrize(("name", "count", "steps"), SLOW + SOAK)
def test_kill_9_at_random_moments_changes_no_bit(name, count, steps, root, tmp_path):
    shown = CONTRACTS[name].shown | (IN_STAGES if name == "robust_mutual" else {})
    training = TRAINING | {"steps": steps, "evaluate_every": steps // 2, "optimizer": "adamw", "learning_rate": 0.002}
    content = configuration(root, networks=[SEGFORMER], method={"name": name, **shown}, training=training)
    path = write_configuration(tmp_path / "run.json", content)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(path, whole).wait() == 0
    kills = 0
    for moment, step, pause in random_moments(count, steps, seed=len(name)):
        happened = moment(killed, step)
        if happened():  # that step is behind a save: later ones come
            happened = logged(killed, min(newest(killed) + 1 if list_of_saves(killed) else 1, steps - 1))
        kill_when(start(path, killed), happened, timeout=900, pause=pause)
        kills += 1
    assert start(path, killed).wait() == 0
    assert_same_run(whole, killed)
    assert [int(row["step"]) for row in table(killed / "history.csv")] == list(range(1, steps + 1))
    assert kills == count


def list_of_saves(folder):
    return list((folder / "checkpoints").glob("ckpt-*.sha256"))


@pytest.mark.parametrize("count", [
    pytest.param(6, marks=pytest.mark.slow), pytest.param(60, marks=pytest.mark.soak)])  # fmt: skip
def test_every_frozen_snapshot_restores(count, root, tmp_path):
    """A run that saves after each step is frozen, and its folder copied as a cut would leave it: in turns at a random
    moment, and at a random one of those at which a save is under way."""
    training = TRAINING | {"steps": 100_000, "checkpoint_every": 1, "evaluate_every": 100_000}
    content = configuration(root, networks=[SEGFORMER], method={"name": "mean_teacher"}, training=training)
    path, folder, draw = write_configuration(tmp_path / "run.json", content), tmp_path / "run", random.Random(count)
    process, copies = start(path, folder), []
    try:
        wait_for(process, saved(folder, 3))
        for number in range(count):
            time.sleep(draw.uniform(0.05, 0.3))
            if number % 2:
                wait_for(process, lambda: not settled(folder), pause=0)
                time.sleep(draw.uniform(0, 0.01))
            process.send_signal(signal.SIGSTOP)
            copies.append(tmp_path / f"copy_{number}")
            shutil.copytree(folder, copies[-1])
            process.send_signal(signal.SIGCONT)
    finally:
        process.kill()
        process.wait()
    run, within = runs.reopen(copies[0], data=False), 0
    for copy in copies:
        saves = Checkpoints(run.method, copy / "checkpoints")
        assert saves.restore() and saves.saved == run.step
        assert run.step >= last_step(copy) - 1  # of the step whose row is written the save may not be
        assert all(np.isfinite(weight).all() for weight in run.deployed.get_weights())
        within += not settled(copy)
    print(f"{count} of {count} restored, {within} of them frozen within a save")
    assert within >= count // 6


def settled(folder):
    """Whether there are two saves and nothing more."""
    return len(os.listdir(folder / "checkpoints")) == 7


# A second process, a full disk, a folder that cannot be written to.


@pytest.mark.slow
def test_a_second_process_is_kept_out(root, tmp_path):
    content = configuration(root, networks=[SEGFORMER], training=TRAINING | {"steps": 5000})
    path, folder = write_configuration(tmp_path / "run.json", content), tmp_path / "run"
    process = start(path, folder)
    try:
        wait_for(process, saved(folder, 3))
        second = start(path, folder)
        assert second.wait() == 2 and process.poll() is None
        assert "another process is training there" in folder.with_suffix(".log").read_text()
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def room():
    """A function that lets no file grow beyond so many bytes, until the test is over or it is called with None."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))

    yield limit
    limit(None)


def size(folder, pattern):
    return max(path.stat().st_size for path in folder.glob(pattern))


FULL = {
    "a save": (callbacks.Save, "on_train_batch_end", lambda folder: 20_000),
    "a table": (callbacks.Log, "on_train_batch_end", lambda folder: size(folder, "history.csv") + 5),
    "scores": (fit, "finish", lambda folder: 100),
    "a picture": (fit, "draw_examples", lambda folder: 100),
    "the report": (fit.report, "write", lambda folder: 5000),
}


@pytest.mark.parametrize("what", ["a save", *(pytest.param(what, marks=pytest.mark.slow) for what in [*FULL][1:])])
def test_a_full_disk_is_told_in_one_line_and_costs_no_save(path, tmp_path, monkeypatch, capsys, room, what):
    owner, name, limit = FULL[what]
    folder = tmp_path / "run"

    def late(callback, *_):
        return not hasattr(callback, "run") or callback.run.step == 6

    with monkeypatch.context() as patch:
        at(patch, owner, name, lambda: room(limit(folder)), late)
        status = command(path, folder)
        room(None)
    told = capsys.readouterr().err.splitlines()
    assert status == 2, told[-3:]
    lines = [line for line in told if line.startswith("error: ")]
    assert len(lines) == 1 and str(folder) in lines[0] and "File too large" in lines[0]
    assert newest(folder) == (3 if callbacks.Save in (owner,) or owner is callbacks.Log else 8)
    before = {number: checkpointed(folder, number) for number in [newest(folder)]}
    assert all(np.isfinite(value).all() for value in before[newest(folder)].values() if value.dtype.kind == "f")
    assert command(path, folder) == 0 and (folder / "report.html").is_file()
    assert [row["step"] for row in table(folder / "history.csv")] == [str(n) for n in range(1, 9)]


@pytest.mark.slow
def test_events_for_tensorboard_on_a_full_disk(path, tmp_path, monkeypatch, capsys, room):
    folder = tmp_path / "run"

    def late(callback, *_):
        return callback.run.step == 3

    with monkeypatch.context() as patch:
        at(patch, callbacks.Evaluate, "on_train_batch_end", lambda: room(size(folder, "tensorboard/*")), late)
        at(patch, callbacks.Save, "on_train_batch_end", lambda: room(None), late)
        status = command(path, folder)
        room(None)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert status in (0, 2) and len(told) == (status == 2)
    assert command(path, folder) == 0


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, of half a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(place)]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
@needs_root
def test_a_disk_that_runs_full_and_then_is_only_to_be_read(path, small_disk, capsys, monkeypatch):
    folder = small_disk / "run"
    with monkeypatch.context() as patch:
        at(patch, callbacks.Save, "on_train_batch_end", lambda: fill(small_disk),
           lambda callback, *_: callback.run.step == 6)  # fmt: skip
        status = command(path, folder)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(told) == 1 and "No space left on device" in told[0] and str(folder) in told[0]
    assert newest(folder) == 3
    (small_disk / "filling").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    before = checkpointed(folder, 3)
    assert command(path, folder) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "cannot write there (Read-only file system)" in line and str(folder) in line
    subprocess.run(["mount", "-o", "remount,rw,size=20m", str(small_disk)], check=True)
    assert all(np.array_equal(value, before[name]) for name, value in checkpointed(folder, 3).items())
    assert command(path, folder) == 0 and "going on after step 3" in capsys.readouterr().out


def fill(disk):
    with open(disk / "filling", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass


def test_where_a_folder_cannot_be_locked_a_file_in_it_is(tmp_path, monkeypatch, capsys):
    """As over NFS, where a lock needs what is open for writing; and where nothing can be, that is told."""
    honest, locks = fcntl.flock, [True]

    def flock(held, how):
        if stat.S_ISDIR(os.fstat(held).st_mode) or not locks[0]:
            raise OSError(errno.EBADF, "Bad file descriptor")
        honest(held, how)

    monkeypatch.setattr(folders.fcntl, "flock", flock)
    with folders.alone_in(tmp_path, "training"):
        with pytest.raises(errors.UserError, match="is training there"), folders.alone_in(tmp_path, "training"):
            pass
        locks[0] = False
        with folders.alone_in(tmp_path, "training"):
            assert "its disk knows no locks" in capsys.readouterr().err
    locks[0] = True
    with folders.alone_in(tmp_path, "training"):
        assert capsys.readouterr().err == ""


def test_what_is_not_of_the_folder_keeps_its_own_words(tmp_path):
    with pytest.raises(PermissionError), folders.kept_when_unwritable(tmp_path / "run"):
        raise PermissionError(13, "Permission denied", "/elsewhere/image.png")
    with pytest.raises(FileNotFoundError), folders.kept_when_unwritable(tmp_path / "run"):
        raise FileNotFoundError(2, "No such file or directory", str(tmp_path / "run" / "x"))
