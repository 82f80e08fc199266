"""serving/node/check.mjs: ONNX Runtime in Node.js makes of a bundle's golden inputs its golden outputs."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

NODE = Path(__file__).parents[1] / "serving" / "node"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (NODE / "node_modules" / "onnxruntime-node").is_dir() or not shutil.which("node"),
        reason="no serving/node/node_modules; `make serving-tools` installs it",
    ),
]


@pytest.fixture
def bundle(exported, tmp_path):
    return Path(shutil.copytree(Path(exported["onnx"]).parent, tmp_path / "1"))


def check(*arguments):
    done = subprocess.run(["node", NODE / "check.mjs", *arguments], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout.splitlines(), done.stderr


def sign(bundle):
    """SHA256SUMS anew, as somebody would who wants a changed file to pass."""
    names = [line.split()[1] for line in (bundle / "SHA256SUMS").read_text().splitlines()]
    sums = [f"{hashlib.sha256((bundle / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (bundle / "SHA256SUMS").write_text("".join(sums))


def change_golden(bundle, name, change):
    with np.load(bundle / "golden.npz") as archive:
        arrays = dict(archive)
    arrays[name] = change(arrays[name])
    np.savez(bundle / "golden.npz", **arrays)
    sign(bundle)


def test_node_reproduces_the_golden_outputs(bundle):
    status, lines, _ = check(bundle)
    with np.load(bundle / "golden.npz") as archive:
        images = [name for name in archive if name.startswith("image_")]
    assert status == 0 and len(images) > 1
    assert len(lines) == 2 * len(images) and all(line.startswith("ok ") for line in lines)
    assert sum("mask: 100.0000 % equal, max difference 0" in line for line in lines) == len(images)


def test_changed_files_are_told_by_their_sums(bundle):
    for name in "model.onnx", "golden.npz":
        content = bytearray((bundle / name).read_bytes())
        content[len(content) // 2] ^= 1
        (bundle / name).write_bytes(content)
    (bundle / "MODEL_CARD.md").unlink()
    status, lines, _ = check(bundle)
    assert status == 1
    assert set(lines) == {f"WRONG  {name}: not that of SHA256SUMS" for name in ("model.onnx", "golden.npz")} | {
        "WRONG  MODEL_CARD.md: missing"
    }


def test_other_golden_outputs_are_told_by_the_computation(bundle):
    change_golden(bundle, "mask_1", lambda mask: (mask + 1) % 3)
    change_golden(bundle, "confidence_0", lambda values: values + np.float32(1e-3))
    status, lines, _ = check(bundle)
    assert status == 1
    wrong = [line.split() for line in lines if line.startswith("WRONG")]
    assert [(line[1], line[3]) for line in wrong] == [("image_0", "confidence:"), ("image_1", "mask:")]
    assert wrong[1][4] == "0.0000"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda values: np.where(np.arange(values.size).reshape(values.shape) == 3, np.nan, values), "difference NaN"),
        (lambda values: values[:, :-1], "golden 1,"),
    ],
)
def test_values_that_cannot_be_compared(bundle, change, told):
    change_golden(bundle, "confidence_0", lambda values: change(values).astype(np.float32))
    status, lines, _ = check(bundle)
    assert status == 1
    [line] = [line for line in lines if line.startswith("WRONG")]
    assert "image_0" in line and told in line


def test_other_weights_are_told_by_the_computation(bundle):
    model = onnx.load(bundle / "model.onnx")
    kernel = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    kernel.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(kernel), kernel.name))
    onnx.save(model, bundle / "model.onnx")
    sign(bundle)
    status, lines, _ = check(bundle)
    assert status == 1 and any(line.startswith("WRONG  image_") for line in lines)


def test_bundles_that_cannot_be_read(bundle):
    assert check()[0] == 2
    assert check(bundle / "none")[0] == 2
    with np.load(bundle / "golden.npz") as archive:
        np.savez_compressed(bundle / "golden.npz", **dict(archive))
    sign(bundle)
    status, _, told = check(bundle)
    assert status == 2 and "compressed" in told
    (bundle / "SHA256SUMS").write_text("")
    assert check(bundle)[:2] == (1, [f"WRONG  {name}: not in SHA256SUMS" for name in ("model.onnx", "golden.npz")])
