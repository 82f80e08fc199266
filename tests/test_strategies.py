"""Where the workers are, what each of them makes of a batch, and the mistakes of those who start them."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import yaml

from tests.test_streams import SIDE, STILL, numbered, source
from tfssl import config, strategies
from tfssl.data.streams import paired_stream
from tfssl.errors import UserError

LAUNCH = Path(strategies.__file__).parent.parent / "launch"
HOSTS = ["a:1", "b:2"]


def training(strategy, labeled=4, unlabeled=4, accumulate=1):
    return SimpleNamespace(strategy=strategy, labeled_batch=labeled, unlabeled_batch=unlabeled, accumulate=accumulate)


def tf_config(cluster=None, task=None):
    return json.dumps({"cluster": cluster or {"worker": HOSTS}, "task": task or {"type": "worker", "index": 1}})


def refused(environment):
    with pytest.raises(UserError) as caught:
        strategies.cluster_of(environment)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_workers_by_tf_config():
    found = strategies.cluster_of({"TF_CONFIG": tf_config(), "SLURM_PROCID": "0"})
    assert found.cluster_spec().as_dict() == {"worker": HOSTS} and (found.task_type, found.task_id) == ("worker", 1)
    assert strategies.workers_of(found.cluster_spec()) == 2
    with_chief = tf_config({"chief": ["c:1"], "worker": HOSTS}, {"type": "chief", "index": 0})
    found = strategies.cluster_of({"TF_CONFIG": with_chief})
    assert found.task_type == "chief" and strategies.workers_of(found.cluster_spec()) == 3


@pytest.mark.parametrize("text, says", [
    ("{", "not valid JSON"),
    ("[]", "no cluster"),
    ("{}", "no cluster"),
    (tf_config({"worker": []}), "cluster.worker is no list"),
    (tf_config({"worker": "a:1"}), "cluster.worker is no list"),
    (tf_config({"worker": ["a"]}), '"a", which is no host:port'),
    (tf_config({"worker": ["a:1", "a:1"]}), "an address twice"),
    (tf_config({"worker": HOSTS, "ps": ["c:1"]}), "'ps'"),
    (tf_config({"worker": HOSTS, "chief": ["c:1", "d:1"]}), "one chief"),
    (tf_config(task={"type": "chief", "index": 0}), 'task.type is "chief"'),
    (tf_config(task=[1]), "task.type is null"),
    (tf_config(task={"type": "worker", "index": 2}), "task.index is 2, but cluster.worker has 2"),
    (tf_config(task={"type": "worker"}), "task.index is null"),
    (tf_config(task={"type": ["worker"], "index": 0}), 'task.type is ["worker"]'),
    (tf_config({"worker": ["a:1", "a:99999"]}), '"a:99999", which is no host:port'),
    (tf_config({"worker": ["a:1", "a:0"]}), '"a:0", which is no host:port'),
])  # fmt: skip
def test_a_tf_config_that_cannot_be(text, says):
    assert says in refused({"TF_CONFIG": text}) and 'write it as {"cluster"' in refused({"TF_CONFIG": text})


def test_no_word_of_the_workers():
    assert "neither TF_CONFIG nor SLURM's variables" in refused({})


@pytest.fixture
def slurm(monkeypatch):
    def environment(**changed):
        given = {"SLURM_PROCID": "3", "SLURM_JOB_ID": "123456", "SLURM_STEP_NUM_TASKS": "4",
                 "SLURM_STEP_NODELIST": "node[9-10]", "SLURM_STEP_TASKS_PER_NODE": "2(x2)", **changed}  # fmt: skip
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        return given

    return environment


def test_workers_by_slurm(slurm):
    """In the order of SLURM's ranks, which is not that of the names as text."""
    found = strategies.cluster_of(slurm(SLURMD_NODENAME="node10"))
    expected = ["node9:23456", "node9:23457", "node10:23456", "node10:23457"]
    assert found.cluster_spec().as_dict() == {"worker": expected} and found.task_id == 3
    assert found.num_accelerators() == {"GPU": 0}  # what this machine has, whatever the resolver was told


def test_slurm_tasks_that_are_elsewhere(slurm):
    assert "--distribution=block" in refused(slurm(SLURMD_NODENAME="node9"))
    assert "srun" in refused(slurm(SLURM_STEP_TASKS_PER_NODE="some"))
    assert "SLURM's task 4 is not where" in refused(slurm(SLURM_PROCID="4"))


def test_no_tpu(monkeypatch):
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(UserError, match="no TPU local answers"):
        strategies.make(training("tpu"))


def test_a_batch_that_workers_cannot_share(monkeypatch):
    """Told before the workers are waited for."""
    monkeypatch.setenv("TF_CONFIG", tf_config())
    with pytest.raises(UserError, match="training.labeled_batch is 3: make it a multiple of 2"):
        strategies.make(training("multi_worker", labeled=3))
    with pytest.raises(UserError, match="training.unlabeled_batch is 6: make it a multiple of 4"):
        strategies.make(training("multi_worker", unlabeled=6, accumulate=2))


@pytest.mark.parametrize("message, who", [
    ("Collective ops is aborted by: recvmsg:Connection reset by peer\nAdditional GRPC error information from remote "
     "target /job:worker/replica:0/task:1:\n", "worker 1"),
    ("Collective ops is aborted by: Error reported from /job:chief/task:0: The following are unhealthy", "chief 0"),
    ("Collective ops is aborted by: Deadline Exceeded\n\nRPC: /tensorflow.CoordinationService/Heartbeat", "worker 0"),
    ("Collective ops is aborted by: Socket closed", "another worker"),
    ("Input to reshape is a tensor with 4 values", None),
])  # fmt: skip
def test_who_is_lost(message, who):
    assert strategies.lost_in(message) == who


def test_an_error_of_another_kind_keeps_its_traceback():
    with pytest.raises(tf.errors.InternalError), strategies.lost_workers():
        raise tf.errors.InternalError(None, None, "a bug")


@pytest.mark.parametrize("labeled, unlabeled, accumulate, there, used", [
    (4, 8, 1, 8, 4), (8, 16, 1, 8, 8), (8, 16, 2, 8, 4), (4, 6, 1, 8, 2), (3, 8, 1, 8, 1), (4, 4, 1, 1, 1),
    (4, 4, 1, 0, 1),
])  # fmt: skip
def test_as_many_gpus_as_can_share_a_batch(labeled, unlabeled, accumulate, there, used, capsys):
    given = training("default", labeled, unlabeled, accumulate)
    assert strategies.even(given, there) == used
    told = capsys.readouterr().out
    assert told == "" if used >= there else f"{used} of {there} GPUs used; for all make training.labeled_batch" in told
    strategies.refuse_uneven(given, used)


def test_a_worker_whose_port_is_taken(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("TF_CONFIG", tf_config({"worker": [f"127.0.0.1:{taken.getsockname()[1]}", "127.0.0.1:1"]},
                                                  {"type": "worker", "index": 0}))  # fmt: skip
        code = "from types import SimpleNamespace as N; from tfssl import errors, strategies; errors.run(lambda _: "
        code += "strategies.make(N(strategy='multi_worker', accumulate=1, labeled_batch=4, unlabeled_batch=4)))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: worker 0 cannot listen at 127.0.0.1:")


# Shares of batches.


def batches(read=None, **changed):
    labeled, unlabeled = numbered(13), numbered(21, with_labels=False)
    if read is not None:
        image = labeled.image
        seen = lambda index: tf.py_function(lambda n: read.append(int(n)) or n, [index], tf.int64)  # noqa: E731
        labeled = labeled.__class__(labeled.names, lambda index: image(seen(index)), labeled.label)
    given = {"seed": 1, "start": 2, "stop": 9, "labeled_batch": 4, "unlabeled_batch": 8, "strong_views": 0,
             "crop": (SIDE, SIDE), "ignore_index": 255, "weak": STILL} | changed  # fmt: skip
    return list(paired_stream(source(labeled, unlabeled), **given).as_numpy_iterator())


@pytest.mark.parametrize("here", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_shares_of_all_workers_are_the_batches(here):
    """Of four replicas, one or two in a process."""
    whole = batches()
    shares = [batches(shares=(first, here, 4)) for first in range(0, 4, here)]
    assert all(len(share) == here * len(whole) for share in shares)
    for number, batch in enumerate(whole):
        parts = [part for share in shares for part in share[number * here : (number + 1) * here]]
        joined = tf.nest.map_structure(lambda *values: np.concatenate(values), *parts)
        tf.nest.map_structure(np.testing.assert_array_equal, joined, batch)


def test_a_worker_reads_nothing_of_the_others():
    read = []
    share = batches(read, shares=(1, 1, 2))
    assert len(read) == 2 * len(share) == 14


def test_shares_are_what_mirrored_replicas_get(two_replicas):
    data = strategies.spread(two_replicas, lambda *given: tf.data.Dataset.from_tensors(tf.range(4)))
    (batch,) = data
    assert [part.numpy().tolist() for part in two_replicas.experimental_local_results(batch)] == [[0, 1], [2, 3]]
    assert strategies.workers(two_replicas) == 1 and strategies.is_chief(two_replicas)
    assert strategies.gathered(two_replicas, 7) == [7]


# Recipes.


def test_the_kubernetes_recipe():
    job = yaml.safe_load((LAUNCH / "kubeflow.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "TFJob")
    assert set(job["spec"]["tfReplicaSpecs"]) == {"Worker"}
    workers = job["spec"]["tfReplicaSpecs"]["Worker"]
    assert workers["replicas"] == 2 and workers["restartPolicy"] == "ExitCode" and strategies.LOST >= 128
    (container,) = workers["template"]["spec"]["containers"]
    assert container["name"] == "tensorflow" and container["ports"][0]["name"] == "tfjob-port"
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in workers["template"]["spec"]["volumes"]}
    path, *words = container["args"]
    overrides = [value for name, value in zip(words, words[1:], strict=False) if name == "--set"]
    settings = config.load(LAUNCH.parent / path, overrides)
    assert settings.training.strategy == "multi_worker"
    gpus = workers["replicas"] * container["resources"]["limits"]["nvidia.com/gpu"]
    strategies.refuse_uneven(settings.training, gpus)
