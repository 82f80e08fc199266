"""What lies in serving/ beside programs: configurations, manifests and the README agree with each other."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving import client
from tests.stub_server_for_tests import READY, stub
from tfssl.serve.__main__ import parser as server_parser

PROJECT = Path(__file__).parents[1]
SERVING = PROJECT / "serving"
KUBERNETES = SERVING / "kubernetes"
NAME, REST, GRPC = "segmentation", 8501, 8500
IMAGE = "tensorflow/serving:2.20.0"
FIELD = descriptor_pb2.FieldDescriptorProto


def message(name, **fields):
    """A message class with these fields, {name: its type}, as TensorFlow Serving's source has it; for text only."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    described = file.message_type.add(name=name)
    for number, (field, kind) in enumerate(fields.items(), 1):
        made = described.field.add(name=field, number=number, label=FIELD.LABEL_OPTIONAL)
        if isinstance(kind, str):
            made.type, made.type_name = FIELD.TYPE_MESSAGE, kind
        else:
            made.type = kind
    return file


def parsed(text, *files):
    """The last file's message, read from text; unknown fields and wrong types are errors."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    for file in files:
        pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(files[-1].message_type[0].name))
    return text_format.Parse(text, kind())


def batching(path):
    whole = ".google.protobuf.Int64Value"
    fields = "max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"
    found = parsed(path.read_text(), message("BatchingParameters", **dict.fromkeys(fields, whole)))
    return {name: getattr(found, name).value for name in fields}


def manifests():
    """{kind: manifest} of what kustomization.yaml names."""
    names = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    found = [yaml.safe_load((KUBERNETES / name).read_text()) for name in names]
    return {each["kind"]: each for each in found}


def serving_pod():
    return manifests()["Deployment"]["spec"]["template"]["spec"]


def publishing_pod():
    return yaml.safe_load((KUBERNETES / "publisher.yaml").read_text())["spec"]


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((SERVING / "compose.yaml").read_text())["services"]["serving"]


@pytest.fixture(scope="module")
def container():
    [found] = serving_pod()["containers"]
    return found


def options(arguments):
    return dict(argument.removeprefix("--").split("=", 1) for argument in arguments)


def test_models_config_names_the_model_that_everything_else_names(exported):
    files = SERVING / "models.config", Path(exported["saved_model"]).parent / "models.config"
    for path in files:
        server = text_format.Parse(path.read_text(), model_server_config_pb2.ModelServerConfig())
        [model] = server.model_config_list.config
        assert (model.name, model.base_path, model.model_platform) == (NAME, f"/models/{NAME}", "tensorflow")


def test_batching_and_monitoring_are_text_that_the_server_can_read(exported):
    ours = batching(SERVING / "batching.config")
    assert ours == batching(Path(exported["saved_model"]) / "batching_params.pbtxt")
    assert ours["max_batch_size"] > 1 and min(ours.values()) > 0
    prometheus = message("PrometheusConfig", enable=FIELD.TYPE_BOOL, path=FIELD.TYPE_STRING)
    monitoring = message("MonitoringConfig", prometheus_config=".PrometheusConfig")
    monitoring.dependency.append(prometheus.name)
    found = parsed((SERVING / "monitoring.config").read_text(), prometheus, monitoring).prometheus_config
    annotations = manifests()["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert found.enable and annotations["prometheus.io/path"] == found.path
    assert annotations["prometheus.io/port"] == str(REST)
    with pytest.raises(text_format.ParseError):  # the check can fail
        parsed("max_batch_sizes { value: 8 }", message("BatchingParameters", max_batch_size=FIELD.TYPE_INT64))


def test_all_start_the_same_server(compose, container):
    given = options(compose["command"])
    assert given == options(container["args"])
    assert (int(given["port"]), int(given["rest_api_port"])) == (GRPC, REST)
    assert compose["entrypoint"] == container["command"] == ["tensorflow_model_server"]
    docker = (SERVING / "Dockerfile").read_text()
    assert f'"--port={GRPC}", "--rest_api_port={REST}"' in docker and f"FROM {IMAGE}\n" in docker
    assert compose["image"] == container["image"] == IMAGE
    readme = (SERVING / "README.md").read_text()
    assert set(re.findall(r"tensorflow/serving:[\w.]+", readme)) == {IMAGE}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"rest": REST, "grpc": GRPC}
    assert compose["ports"] == [f"127.0.0.1:{port}:{port}" for port in (REST, GRPC)]  # not for the whole network
    defaults = [server_parser().get_default(option) for option in ("name", "rest_port", "grpc_port")]
    assert defaults == [NAME, REST, GRPC]
    addresses = [client.DEFAULT_URL, client.DEFAULT_GRPC]
    assert addresses == [f"http://127.0.0.1:{REST}", f"127.0.0.1:{GRPC}"]


def test_configuration_files_are_where_the_server_looks(compose, container):
    given = options(compose["command"])
    read = {Path(given[option]) for option in ("model_config_file", "monitoring_config_file")}
    mounts = dict(volume.rsplit(":", 2)[:2] for volume in compose["volumes"] if volume.startswith("./"))
    assert {Path(target) for target in mounts.values()} == read
    assert all((SERVING / source).is_file() for source in mounts)
    stored = manifests()["ConfigMap"]["data"]
    assert {Path("/config") / name for name in stored} == read
    assert all(text == (SERVING / name).read_text() for name, text in stored.items())
    places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert places["models"] == f"/models/{NAME}" and places["configuration"] == "/config"
    assert [volume for volume in compose["volumes"] if f":/models/{NAME}:ro" in volume]


def test_manifests_refer_to_each_other():
    found = manifests()
    assert {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml", "publisher.yaml"} == set(
        yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    )
    assert all(each["apiVersion"] and each["metadata"]["name"] for each in found.values())
    pod = found["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels == found["Service"]["spec"]["selector"]
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    ports = {port["port"]: port["targetPort"] for port in found["Service"]["spec"]["ports"]}
    assert ports == {REST: "rest", GRPC: "grpc"}
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", found["Deployment"]["metadata"]["name"])
    least = found["HorizontalPodAutoscaler"]["spec"]["minReplicas"]
    assert found["PodDisruptionBudget"]["spec"]["minAvailable"] < least  # or no node could ever be emptied
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    claim = found["PersistentVolumeClaim"]["metadata"]["name"]
    publisher = publishing_pod()
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claim
    assert publisher["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim
    assert volumes["configuration"]["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
    assert volumes.keys() == {mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}


def test_pods_are_confined_and_end_gracefully(container):
    for pod in serving_pod(), publishing_pod():
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert pod["automountServiceAccountToken"] is False
        for each in pod["containers"]:
            confined = each["securityContext"]
            assert confined["readOnlyRootFilesystem"] and not confined["allowPrivilegeEscalation"]
            assert confined["capabilities"] == {"drop": ["ALL"]}
            assert each["resources"].keys() == {"requests", "limits"}
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert serving_pod()["terminationGracePeriodSeconds"] >= waits + 20  # for requests that came last
    threads = options(container["args"])["tensorflow_intra_op_parallelism"]
    assert container["resources"]["limits"]["cpu"] == threads
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounts["models"]["readOnly"] and mounts["configuration"]["readOnly"]
    assert mounts["temporary"]["mountPath"] == "/tmp"


def test_probes_ask_for_what_they_must(container, served):
    """Ready means that a version answers, so that probe asks for something only such a version has."""
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert all(probe["port"] == "rest" for probe in probes.values())
    assert probes["startup"]["path"] == probes["liveness"]["path"] == f"/v1/models/{NAME}"
    assert probes["readiness"]["path"] == f"/v1/models/{NAME}/metadata"
    for probe in probes.values():
        assert served.ask("GET", probe["path"])[0] == 200
    assert served.ask("GET", f"/v1/models/{NAME}/versions/9/metadata")[0] == 404


def test_health_check_runs_and_tells_good_from_bad(compose, served):
    """The very command of compose.yaml, by bash, at another port."""
    *start, script = compose["healthcheck"]["test"]
    assert start == ["CMD", "bash", "-c"] and f"127.0.0.1/{REST}" in script

    def healthy(address):
        command = ["bash", "-c", script.replace(f"127.0.0.1/{REST}", address.removeprefix("http://").replace(":", "/"))]
        return subprocess.run(command, timeout=30, stderr=subprocess.DEVNULL).returncode == 0

    assert healthy(served.rest)
    assert not healthy("127.0.0.1:1")
    with stub({"": (200, {"model_version_status": [{"version": "1", "state": "LOADING"}]})}, keeps=False) as url:
        assert not healthy(url)
    with stub({"": (503, {"error": "UNAVAILABLE"})}, keeps=False) as url:
        assert not healthy(url)
    with stub(READY, keeps=False) as url:
        assert healthy(url)


def test_an_export_can_be_read_by_the_containers_user(exported):
    folder = Path(exported["saved_model"])
    for path in [folder, *folder.rglob("*")]:
        assert path.stat().st_mode & 0o005 == (0o005 if path.is_dir() else 0o004), path


def test_pins_of_other_tools():
    """Exact versions, no addresses of registries, and the ONNX Runtime in Triton that the export is checked with."""
    package = json.loads((SERVING / "node" / "package.json").read_text())
    locked = json.loads((SERVING / "node" / "package-lock.json").read_text())["packages"]
    for name, version in package["dependencies"].items():
        assert locked[f"node_modules/{name}"]["version"] == version
    assert all("resolved" not in each and each["integrity"] for place, each in locked.items() if place)
    pins = [line for line in (SERVING / "triton" / "requirements.txt").read_text().splitlines() if line[:1] != "#"]
    assert all(re.fullmatch(r"[\w.-]+(\[[\w,]+\])?==[\w.]+", pin) for pin in pins)
    assert any(pin.startswith("numpy==1.") for pin in pins)
    ours = (PROJECT / "requirements.txt").read_text().splitlines()
    assert [pin for pin in pins if pin.startswith("onnxruntime==")] == [pin for pin in ours if "onnxruntime==" in pin]


@pytest.fixture
def no_registry(tmp_path):
    """A copy of the Makefile's surroundings in which nothing can be installed; a function that runs a target."""
    copied = "Makefile", "requirements-serving-test.txt"
    for name in *copied, "serving/triton/requirements.txt", "serving/node/package-lock.json":
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    tools = tmp_path / "tools"
    for place in tmp_path / ".venv" / "bin" / "pip", tools / "npm", tools / "apt-get", tools / "python":
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("#!/bin/sh\necho no registry >&2\nexit 1\n")
        place.chmod(0o755)
    for name in ".venv/with-tests", "requirements.txt", "requirements-test.txt":
        (tmp_path / name).touch()
    environment = {"PATH": f"{tools}:/usr/bin:/bin"}
    (tmp_path / ".venv" / "with-tests").touch()

    def make(*arguments):
        command = ["make", "PYTHON=python", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    return make


def test_make_goes_on_without_the_registries(no_registry):
    done = no_registry("serving-tools", "DEBIAN_TOOLS=surely-missing:some-package")
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("not installed:")]
    assert len(told) == 4 and "not installed: some-package (with apt-get, as root)" in told[0]
