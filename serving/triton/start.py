"""Serve an ONNX bundle with NVIDIA Triton from the wheel nvidia-pytriton, without a container or a GPU.

python3.11 -m venv .venv-triton && .venv-triton/bin/pip install -r serving/triton/requirements.txt
.venv-triton/bin/python serving/triton/start.py runs/NAME/export/onnx/1

serves the model `segmentation` by KServe's protocol v2 (REST 8000, gRPC 8001) on this machine until SIGTERM or SIGINT;
requests that run are then finished first. It is the real Triton server, and takes all of its options after `--`.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SITE = Path(sysconfig.get_path("purelib"))
SERVER = SITE / "pytriton" / "tritonserver"


def make_repository(bundle, folder):
    """folder/segmentation/: our configuration and model.py, the bundle's model.onnx and its version."""
    version = bundle.name if bundle.name.isdecimal() else "1"
    model = folder / "segmentation"
    shutil.copytree(HERE / "segmentation" / "1", model / version, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HERE / "segmentation" / "config.pbtxt", model)
    shutil.copy(bundle / "model.onnx", model / version)
    return folder


def make_backends(folder):
    """folder/python/: the backend and the stub for this Python, which the wheel keeps apart and not executable."""
    python = folder / "python"
    shutil.copytree(SERVER / "backends" / "python", python)
    stub = SERVER / "python_backend_stubs" / f"3.{sys.version_info.minor}" / "triton_python_backend_stub"
    shutil.copy(stub, python)
    for path in python.iterdir():
        path.chmod(0o755)
    return folder


def environment():
    """Triton's stub finds its packages by the first Python of PATH, its libraries by LD_LIBRARY_PATH."""
    libraries = [str(SITE / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "LD_LIBRARY_PATH": ":".join(libraries)}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="the folder with model.onnx, export/onnx/VERSION of a run")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("options", nargs="*", help="further options for tritonserver, after --")
    given = parser.parse_args(arguments)
    if not (given.bundle / "model.onnx").is_file():
        parser.error(f"{given.bundle}: no model.onnx there")
    if not SERVER.is_dir():
        parser.error("nvidia-pytriton is not installed: pip install -r serving/triton/requirements.txt")
    with tempfile.TemporaryDirectory(prefix="triton-") as folder:
        command = [
            SERVER / "bin" / "tritonserver",
            f"--model-repository={make_repository(given.bundle, Path(folder) / 'models')}",
            f"--backend-directory={make_backends(Path(folder) / 'backends')}",
            f"--http-address={given.host}",
            f"--grpc-address={given.host}",
            f"--http-port={given.http_port}",
            f"--grpc-port={given.grpc_port}",
            "--allow-metrics=false",
            *given.options,
        ]
        (Path(folder) / "models").chmod(0o755)
        os.chmod(command[0], 0o755)
        server = subprocess.Popen(command, env=environment())
        for number in signal.SIGTERM, signal.SIGINT:
            signal.signal(number, lambda *_: server.send_signal(signal.SIGTERM))
        return server.wait()


if __name__ == "__main__":
    sys.exit(main())
