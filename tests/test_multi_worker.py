"""Two workers, processes on the loopback device, compute what one process computes of each half of a batch in turn."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.contracts import every_method
from tests.runs_for_tests import checkpointed, configuration, image_name, table, write_configuration, write_data
from tests.worker_for_tests import PROJECT, free_ports, on_workers
from tfssl import strategies
from tfssl.methods import METHODS

WITHIN = 30  # seconds in which a worker must have noticed that another is gone
REMEDY = ["_maybe_symbolic_build", "make_train_function"]
XLA = ("supervised", "mean_teacher")
SPOILED = ("gta", "u2pl", "robust_mutual", "adversarial")  # of several moves, and with memories
SMALL = {"name": "unet", "width": 4, "levels": 1}


def tasks_of(names, steps):
    return [task for name in names for task in (["in_turn_and_together", name], ["checksums_after", name, steps])]


def assert_equal_after(steps, one, other):
    """What checksums_after returned on two workers: equal variables, that have moved."""
    assert one["variables"] and one["variables"] == other["variables"]
    assert one["logged"] == other["logged"] and np.isfinite(list(one["logged"].values())).all()
    assert len(one["moved"]) > len(one["variables"]) / 2, steps


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """For the tests that take seconds."""
    tasks = [["plain_keras"], ["plain_keras", REMEDY[0]], ["plain_keras", REMEDY[1]], ["plain_keras", *REMEDY],
             ["shares"], *tasks_of(["supervised"], 5), ["spoiled_on_one", "mean_teacher"]]  # fmt: skip
    return run_tasks(tmp_path_factory.mktemp("quick"), tasks)


def run_tasks(folder, tasks):
    """{task as text: [what it returned on worker 0, on worker 1]} of one pair of processes."""
    returned = on_workers(folder, tasks)
    return {" ".join(map(str, task)): both for task, *both in zip(tasks, *returned, strict=True)}


def test_plain_keras_still_needs_the_remedy(quick):
    """If one of the first three is "ok", a newer Keras needs that part of tfssl/methods/many_workers.py no longer."""
    nothing, without_rows, without_build, whole = (
        quick[" ".join(["plain_keras", *parts])] for parts in ([], REMEDY[:1], REMEDY[1:], REMEDY)
    )
    assert all("PerReplica" in said for said in nothing + without_build)
    assert all("Invalid reduction dimension" in said for said in without_rows)
    assert whole == ["ok", "ok"]


def test_each_worker_makes_its_own_share(quick):
    assert quick["shares"] == [[[0, 1, 2]], [[1, 1, 2]]]


def test_two_workers_are_two_halves_in_turn(quick):
    assert quick["in_turn_and_together supervised"] == [None, None]  # each has compared
    assert_equal_after(5, *quick["checksums_after supervised 5"])


def assert_skipped_on_both(one, other):
    """What spoiled_on_one returned on two workers."""
    assert one == other
    assert one["written"] == [] and one["counted"][:2] == [1, 1]


def test_what_one_worker_finds_not_finite_both_skip(quick):
    assert_skipped_on_both(*quick["spoiled_on_one mean_teacher"])


@pytest.mark.slow
def test_two_workers_are_two_halves_in_turn_in_every_method(tmp_path):
    """One test, so that one pair of processes serves all methods; the log of a pair that fails names the task."""
    names = [name for name in METHODS if name != "supervised"]
    compiled = [["in_turn_and_together", name, True] for name in XLA]
    several_moves = [["spoiled_on_one", name] for name in SPOILED]
    found = run_tasks(tmp_path, [*tasks_of(names, 10), *compiled, *several_moves])
    for name in names:
        assert_equal_after(10, *found[f"checksums_after {name} 10"])
    for name in SPOILED:
        assert_skipped_on_both(*found[f"spoiled_on_one {name}"])


@pytest.mark.soak
@every_method
def test_equal_weights_and_queues_after_fifty_steps(name, tmp_path):
    (one,), (other,) = on_workers(tmp_path, [["checksums_after", name, 50]])
    assert_equal_after(50, one, other)


# Runs, by the recipes of launch/.


@pytest.fixture
def run(tmp_path):
    """(configuration file, run folder) of a run with memories, a pass over all data before it, and an export."""
    method = {"name": "robust_mutual", "prototype_start": "full_pass", "warm_up": 0, "ema_decay": 0.9}
    training = {"steps": 12, "checkpoint_every": 2, "evaluate_every": 6, "log_every": 1, "unlabeled_batch": 4}
    content = configuration(write_data(tmp_path / "data"), networks=[SMALL], method=method, training=training,
                            data={"held_out": "held_out.txt"}, export={"saved_model": True})  # fmt: skip
    return write_configuration(tmp_path / "run.json", content), tmp_path / "run"


@pytest.fixture
def started():
    """A list for processes that must not outlive the test."""
    processes = []
    yield processes
    for process in processes:
        process.kill()


def terminal(index, hosts, path, folder, *words):
    """launch/two_terminals.sh in terminal `index`; what it prints is in <folder>.log<index>."""
    scratch = folder.parent / f"scratch{index}"
    scratch.mkdir(exist_ok=True)
    given = {"HOSTS": " ".join(hosts), "TMPDIR": str(scratch),
             "PYTHON": sys.executable}  # fmt: skip
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "TFSSL_CACHE": str(folder.parent / "cache"), **given}
    command = ["sh", "launch/two_terminals.sh", str(index), str(path), "--output-dir", str(folder), *words]
    with open(f"{folder}.log{index}", "a") as log:
        return subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=log, stderr=log)


def both_terminals(started, path, folder, *words):
    hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
    pair = [terminal(index, hosts, path, folder, *words) for index in range(2)]
    started += pair
    return pair


def wait_for_row(folder, step, pair, timeout=300):
    end = time.monotonic() + timeout
    path = folder / "history.csv"
    while not (path.is_file() and any(row["step"] == str(step) for row in table(path))):
        assert all(process.poll() is None for process in pair), "a worker ended before its time"
        assert time.monotonic() < end
        time.sleep(0.01)


def last_line(folder, index):
    with open(f"{folder}.log{index}") as log:
        return log.read().splitlines()[-1]


def test_a_worker_that_waits_for_the_others_can_be_stopped(run, started):
    path, folder = run
    alone = terminal(0, [f"127.0.0.1:{port}" for port in free_ports(2)], path, folder)
    started.append(alone)
    end = time.monotonic() + 100
    while "waiting for the worker at 127.0.0.1:" not in Path(f"{folder}.log0").read_text():
        assert alone.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    alone.terminate()
    assert alone.wait(5) == 143
    assert last_line(folder, 0).startswith("stopped by SIGTERM, nothing new to save") and not folder.exists()


@pytest.mark.slow
def test_a_lost_worker_ends_the_other_and_the_restarted_pair_goes_on(run, started, tmp_path):
    path, folder = run
    pair = both_terminals(started, path, folder)
    wait_for_row(folder, 5, pair)
    pair[1].kill()
    killed = time.monotonic()
    assert pair[0].wait(WITHIN) == strategies.LOST
    print(f"noticed after {time.monotonic() - killed:.1f} s")
    said = last_line(folder, 0)
    assert said.startswith("error: worker 1 does not answer any more; start all workers again"), said
    slurm = in_slurm(path, folder, tmp_path / "slurm")
    assert slurm.returncode == 0, slurm.stdout[-3000:] + slurm.stderr[-3000:]
    assert "going on after step 4 of 12" in slurm.stdout
    assert [int(row["step"]) for row in table(folder / "history.csv")] == list(range(1, 13))
    assert [int(row["step"]) for row in table(folder / "evaluations.csv")] == [6, 12]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["steps"] == 12 and set(metrics["networks"]) == {"teacher_1", "teacher_2", "student_1", "student_2"}
    assert (folder / "export" / "saved_model" / "1").is_dir() and (folder / "report.html").is_file()
    assert checkpointed(folder, 12)
    scores = subprocess.run([sys.executable, "-m", "tfssl.evaluate", str(folder)], cwd=PROJECT, capture_output=True,
                            text=True)  # fmt: skip  # on one device, without a cluster
    assert scores.returncode == 0, scores.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_sigterm_of_one_worker_ends_both_after_a_save(run, started, asked):
    path, folder = run
    words = ("--set", "training.steps=100000", "--set", "training.checkpoint_every=100000",
             "--set", "training.evaluate_every=100000")  # fmt: skip
    pair = both_terminals(started, path, folder, *words)
    wait_for_row(folder, 3, pair)
    pair[asked].terminate()
    assert [process.wait(WITHIN) for process in pair] == [143, 143]
    step = table(folder / "history.csv")[-1]["step"]
    assert checkpointed(folder, int(step))
    for index, saved in enumerate((f"saved after step {step}", f"worker 0 saves after step {step}")):
        assert last_line(folder, index) == f"stopped by SIGTERM, {saved}; the same command goes on from there"


@pytest.mark.slow
def test_sigterm_of_the_chief_while_it_scores(run, started):
    """The other is in the next step then, and loses it."""
    path, folder = run
    words = ("--set", "training.steps=100000", "--set", "training.checkpoint_every=100000",
             "--set", "training.evaluate_every=1")  # fmt: skip
    pair = both_terminals(started, path, folder, *words)
    wait_for_row(folder, 3, pair)
    pair[0].terminate()
    assert [process.wait(WITHIN) for process in pair] in ([143, 138], [143, 143])
    assert checkpointed(folder, int(table(folder / "history.csv")[-1]["step"]))


@pytest.mark.slow
def test_a_file_that_one_worker_cannot_use_ends_both(run, started, tmp_path):
    path, folder = run
    pair = both_terminals(started, path, folder, "--set", "training.steps=100000")
    wait_for_row(folder, 3, pair)
    (tmp_path / "data" / image_name(0)).unlink()
    assert [process.wait(WITHIN) for process in pair] == [2, 2]
    said = [last_line(folder, index) for index in range(2)]
    assert any(image_name(0) in line for line in said)
    assert all(line.startswith("error: step ") for line in said)


SRUN = """#!/bin/sh
# In place of SLURM's: two tasks on this machine, with the variables that a job step has.
shift 2
export SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=localhost SLURM_STEP_TASKS_PER_NODE=2
SLURM_PROCID=1 "$@" > "$SCRATCH/log1" 2>&1 &
SLURM_PROCID=0 "$@"
first=$?
wait $!
second=$?
[ $first -lt $second ] || exit $first
exit $second
"""
WORKER = """#!/bin/sh
[ "$SLURM_PROCID" = 0 ] && exit $FIRST
exit $SECOND
"""


@pytest.mark.parametrize("first, second, ends, again", [
    (0, 0, 0, False), (138, 137, 138, True), (143, 143, 143, True), (2, 138, 2, False), (138, 2, 2, False),
    (1, 138, 138, True)])  # fmt: skip
def test_what_slurm_begins_again(first, second, ends, again, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    executable(scratch / "scontrol", 'echo "$@" > "$SCRATCH/requeued"\n')
    worker = executable(scratch / "worker", WORKER)
    words = {"PYTHON": str(worker), "FIRST": str(first), "SECOND": str(second)}
    assert in_slurm("config.json", tmp_path / "run", scratch, **words).returncode == ends
    assert (scratch / "requeued").is_file() == again and not list(PROJECT.glob("*.mistake"))


def executable(path, text):
    path.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def in_slurm(path, folder, scratch, **words):
    """launch/slurm.sh with a stand-in for srun."""
    scratch.mkdir(exist_ok=True)
    executable(scratch / "srun", SRUN)
    environment = {**os.environ, "PATH": f"{scratch}:{os.environ['PATH']}", "SLURM_JOB_ID": str(os.getpid()),
                   "PYTHON": sys.executable, "SCRATCH": str(scratch), "TF_CPP_MIN_LOG_LEVEL": "2",
                   "TFSSL_CACHE": str(folder.parent / "cache"), **words}  # fmt: skip
    return subprocess.run(["bash", "launch/slurm.sh", str(path), "--output-dir", str(folder)], cwd=PROJECT,
                          env=environment, capture_output=True, text=True, timeout=600)  # fmt: skip


@pytest.mark.soak
@pytest.mark.parametrize("victim, how", [(0, signal.SIGKILL), (0, signal.SIGSTOP), (1, signal.SIGSTOP)])
def test_workers_that_are_lost_in_other_ways(run, started, victim, how):
    """The chief killed; and workers that stand still, as behind a cut cable."""
    path, folder = run
    pair = both_terminals(started, path, folder, "--set", "training.steps=100000")
    wait_for_row(folder, 5, pair)
    pair[victim].send_signal(how)
    assert pair[1 - victim].wait(WITHIN) == strategies.LOST
    assert f"worker {victim} does not answer" in last_line(folder, 1 - victim)


@pytest.mark.slow
def test_workers_with_unlike_configurations_are_refused(run, started):
    path, folder = run
    hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
    started += [terminal(0, hosts, path, folder), terminal(1, hosts, path, folder, "--set", "seed=5")]
    assert [process.wait(300) for process in started] == [2, 2]
    for index in range(2):
        assert last_line(folder, index).startswith("error: worker 1 has another configuration than worker 0")
    assert not (folder / "history.csv").exists()
