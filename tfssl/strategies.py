"""Which devices share a step: the strategy of a run by `training.strategy`, and who does what among several workers.

"default" is what the machine has: of several GPUs as many as can share the batches evenly, else one device; "one" one
device; "mirrored" all GPUs, else all logical CPUs; "multi_worker" the processes that TF_CONFIG names, or those of a
SLURM job step, each with all its GPUs or one CPU; "tpu" the cores of one TPU. The first worker is the chief: it alone
writes the run's folder.
"""

import contextlib
import json
import math
import os
import re
import socket
import sys
import time

import tensorflow as tf

from tfssl.errors import UserError

LOST = 138  # the exit status when another worker is gone: Kubeflow's for "start me again", as for every one above 127
JOBS = ("chief", "worker")  # of a cluster that trains by all-reduce, in the order of the replicas
LARGEST = 1 << 24  # whole numbers below are exact in float32, which every device can send


def make(training):
    """The strategy by its key. One of several workers must be made before any other operation of the process."""
    if training.strategy == "multi_worker":
        cluster = cluster_of(os.environ)
        refuse_uneven(training, workers_of(cluster.cluster_spec()) * max(1, cluster.num_accelerators()["GPU"]))
        strategy = meet_workers(cluster)
        strategy.extended.experimental_enable_get_next_as_optional = False  # or batches have no known size
        return strategy
    if training.strategy == "tpu":
        return _make_even(training, tf.distribute.TPUStrategy(tpu_of(os.environ)))
    accelerators = tf.config.list_logical_devices("GPU")
    devices = accelerators or tf.config.list_logical_devices("CPU")
    if training.strategy == "default":
        devices = devices[: even(training, len(accelerators))]
    several = len(devices) > 1 if training.strategy == "default" else training.strategy == "mirrored"
    refuse_uneven(training, len(devices) if several else 1)
    return tf.distribute.MirroredStrategy([device.name for device in devices]) if several else one()


def even(training, there):
    """How many of so many GPUs can share the batches: all, or as many as divide them, and then it is told."""
    both = math.gcd(training.labeled_batch, training.unlabeled_batch)
    used = next((count for count in range(there, 1, -1) if both % (count * training.accumulate) == 0), 1)
    if used < there:
        batches = f"training.labeled_batch ({training.labeled_batch}) and unlabeled_batch ({training.unlabeled_batch})"
        print(f"{used} of {there} GPUs used; for all make {batches} multiples of {there * training.accumulate}")
    return used


def one():
    """One device."""
    return tf.distribute.get_strategy()


def _make_even(training, strategy):
    refuse_uneven(training, strategy.num_replicas_in_sync)
    return strategy


def refuse_uneven(training, replicas):
    """All replicas, and all parts of a batch on them, have equally many images."""
    shares = training.accumulate * replicas
    for key in ("labeled_batch", "unlabeled_batch"):
        if getattr(training, key) % shares:
            raise UserError(f"training.{key} is {getattr(training, key)}: make it a multiple of {shares}, the devices "
                            f"({replicas}) times training.accumulate")  # fmt: skip


# The cluster.


def meet_workers(cluster):
    """The strategy of all workers of a cluster, when all have started.

    Waited for here and not in TensorFlow, which hears neither SIGTERM nor Ctrl-C meanwhile.
    """
    addresses = cluster.cluster_spec().as_dict()
    own = addresses[cluster.task_type][cluster.task_id]
    try:
        wait_for([address for job in addresses.values() for address in job if address != own], own)
    except OSError as error:
        raise UserError(f"{cluster.task_type} {cluster.task_id} cannot listen at {own} ({error.strerror}): is a worker "
                        "still running there? Choose another port") from None  # fmt: skip
    with lost_workers():
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=cluster)


def wait_for(others, own):
    """Listen at the port of `own` until each of the other addresses has answered."""
    both = {"family": socket.AF_INET6, "dualstack_ipv6": True} if socket.has_dualstack_ipv6() else {}
    with socket.create_server(("", int(own.rpartition(":")[2])), backlog=len(others) + 8, **both):
        for address in others:
            if not answers(address):
                print(f"waiting for the worker at {address}", flush=True)
            while not answers(address):
                time.sleep(0.2)


def answers(address):
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):  # none is there yet, or its name is not known yet
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        return True
    return False


def cluster_of(environment):
    """Where all workers are, and which of them this process is: by TF_CONFIG, else by SLURM's variables."""
    if "TF_CONFIG" in environment:
        cluster, job, index = told_by_tf_config(environment["TF_CONFIG"])
    elif "SLURM_PROCID" in environment:
        cluster, job, index = told_by_slurm(environment)
    else:
        raise UserError("training.strategy is multi_worker, but neither TF_CONFIG nor SLURM's variables say where the "
                        "workers are; see launch/, or set training.strategy to default")  # fmt: skip
    accelerators = {"GPU": len(tf.config.list_physical_devices("GPU"))}
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(cluster), task_type=job, task_id=index, num_accelerators=accelerators, rpc_layer="grpc"
    )


def told_by_tf_config(text):
    """({job: addresses}, job, index) of the variable's JSON; a UserError that says what of it is wrong."""
    example = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'

    def refuse(what):
        raise UserError(f"TF_CONFIG: {what}; write it as {example}")

    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        refuse(f"not valid JSON ({error.msg})")
    cluster = content.get("cluster") if isinstance(content, dict) else None
    if not isinstance(cluster, dict) or not cluster:
        refuse("has no cluster")
    for job, addresses in cluster.items():
        if job not in JOBS:
            refuse(f"cluster has the job {job!r}, but all train alike: only {' and '.join(JOBS)}")
        if not isinstance(addresses, list) or not addresses:
            refuse(f"cluster.{job} is no list of addresses")
        for address in addresses:
            if not is_address(address):
                refuse(f"cluster.{job} holds {json.dumps(address)}, which is no host:port")
    addresses = [address for job in cluster for address in cluster[job]]
    if len(set(addresses)) < len(addresses):
        refuse("cluster names an address twice")
    if len(cluster.get("chief", [])) > 1:
        refuse("there is one chief only")
    task = content.get("task")
    job, index = (task.get("type"), task.get("index")) if isinstance(task, dict) else (None, None)
    if not isinstance(job, str) or job not in cluster:
        refuse(f"task.type is {json.dumps(job)}, which is no job of cluster")
    if isinstance(index, str) and index.isdecimal():  # as some launchers write it
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(cluster[job]):
        refuse(f"task.index is {json.dumps(index)}, but cluster.{job} has {len(cluster[job])}")
    return cluster, job, index


def is_address(text):
    """Whether it is host:port, the port one that there is."""
    found = re.fullmatch(r".+:(\d{1,5})", text) if isinstance(text, str) else None
    return found is not None and 0 < int(found[1]) < 1 << 16


def told_by_slurm(environment):
    """The same of a SLURM job step, by TensorFlow's resolver.

    What it takes for GPUs is for its own count alone, and so that it sets no device: SLURM has given each task its own.
    It sorts hosts as text (node10 before node9), while SLURM numbers tasks as it lists the hosts.
    """
    job_number = int(environment.get("SLURM_JOB_ID", 0))
    try:
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=20_000 + job_number % 10_000, gpus_per_node=1 << 10, gpus_per_task=1, auto_set_gpu=False
        )
        listed, tasks = resolver._resolve_hostlist(), resolver._task_configuration
        found = resolver.cluster_spec().as_dict()["worker"]
    except (RuntimeError, ValueError) as error:
        raise UserError(f"SLURM's variables do not tell where the workers are ({error}); start them with srun, as in "
                        "launch/slurm.sh") from None  # fmt: skip
    addresses = [address for host in listed for address in found if address.rpartition(":")[0] == host]
    index = int(environment["SLURM_PROCID"])
    here = environment.get("SLURMD_NODENAME")
    if not index < len(addresses) == sum(tasks.values()) or here and addresses[index].rpartition(":")[0] != here:
        raise UserError(f"SLURM's task {index} is not where its list of hosts has it; start all with "
                        "srun --distribution=block, as in launch/slurm.sh")  # fmt: skip
    return {"worker": addresses}, "worker", index


def workers_of(cluster):
    """How many workers a cluster has."""
    return sum(len(addresses) for addresses in cluster.as_dict().values())


def tpu_of(environment):
    """The TPU that TPU_NAME names, else one of this machine, connected and ready."""
    name = environment.get("TPU_NAME", "local")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        if name != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"training.strategy is tpu, but no TPU {name} answers ({reason[:200]}); set TPU_NAME, or "
                        "training.strategy to default") from None  # fmt: skip
    return resolver


# Who does what.


def workers(strategy):
    """How many processes share each step."""
    return strategy.extended._num_workers if _of_several(strategy) else 1


def worker(strategy):
    """The number of this process among them, the chief's being 0."""
    return strategy.extended._id_in_cluster if _of_several(strategy) else 0


def is_chief(strategy):
    """Whether this process writes the run's folder."""
    return worker(strategy) == 0


def _of_several(strategy):
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def spread(strategy, dataset_of):
    """What a step of all replicas reads. dataset_of(first, here, replicas): the batches, of each the shares alone of so
    many (`here`) of the replicas from `first` on, one after the other."""
    if workers(strategy) == 1:
        return strategy.experimental_distribute_dataset(dataset_of(0, 1, 1))  # cut up by TensorFlow, in this order
    replicas = strategy.num_replicas_in_sync
    here = replicas // workers(strategy)
    return strategy.distribute_datasets_from_function(lambda _: dataset_of(here * worker(strategy), here, replicas))


def gathered(strategy, number):
    """The whole number (below LARGEST) that each worker gives, in their order; all wait here for all."""
    if workers(strategy) == 1:
        return [number]

    @tf.function
    def gather():
        return strategy.run(lambda: tf.distribute.get_replica_context().all_gather(tf.fill([1], float(number)), axis=0))

    found = strategy.experimental_local_results(gather())[0].numpy()
    return [int(each) for each in found[:: len(found) // workers(strategy)]]


def shared(strategy):
    """A function that gives which of a list of flags are set on any worker; all wait in it for all."""
    if workers(strategy) == 1:
        return list

    @tf.function
    def counted(flags):
        def on_each():  # where the flags come from has no device by name, and a sum goes where its part is
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(flags))

        return strategy.run(on_each)

    def on_any(flags):
        found = strategy.experimental_local_results(counted(tf.constant(flags, tf.float32)))[0]
        return [bool(count) for count in found.numpy()]

    return on_any


def refuse_unlike(strategy, number, what):
    """A UserError on all workers where one has another number, which stands for its `what`, than the chief."""
    chiefs, *others = gathered(strategy, number)
    for index, other in enumerate(others, 1):
        if other != chiefs:
            raise UserError(f"worker {index} has another {what} than worker 0; start all workers with the same command "
                            "on the same files")  # fmt: skip


@contextlib.contextmanager
def lost_workers():
    """End this process, within the block, when another worker is gone: one line, and the status LOST.

    At once: TensorFlow's own end of the process may wait for those that are gone.
    """
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError,
            tf.errors.DeadlineExceededError) as error:  # fmt: skip
        who = lost_in(str(error))
        if who is None:
            raise
        print(f"error: {who} does not answer any more; start all workers again with the same command, they go on from "
              "the last checkpoint", file=sys.stderr, flush=True)  # fmt: skip
        sys.stdout.flush()
        os._exit(LOST)


def lost_in(message):
    """Which worker an error of TensorFlow says is gone; None where it is of something else."""
    if not re.search(r"[Cc]ollective|[Cc]oordination|heartbeat|GRPC|recvmsg|Socket closed", message):
        return None
    found = re.search(r"/job:(\w+)(?:/replica:\d+)?/task:(\d+)", message)
    if found:
        return f"{found[1]} {found[2]}"
    return "worker 0" if "CoordinationService" in message else "another worker"  # it is the one all send heartbeats to
