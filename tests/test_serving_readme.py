"""The examples of serving/README.md, run as they stand there."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serving_for_tests import decoded, encoded, pixels

PROJECT = Path(__file__).parents[1]
SERVING = PROJECT / "serving"
IMAGE = encoded(pixels(33, 47, 1), "JPEG", quality=90)
NODE_MODULES = SERVING / "node" / "node_modules"


def examples(language):
    """The code blocks that are marked as of this language."""
    text = (SERVING / "README.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def folder(exported, tmp_path, monkeypatch):
    """The working folder, with the image and the run that the README speaks of."""
    (tmp_path / "street.jpg").write_bytes(IMAGE)
    (tmp_path / "runs" / "robust_mutual").mkdir(parents=True)
    (tmp_path / "runs" / "robust_mutual" / "export").symlink_to(Path(exported["onnx"]).parents[2])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def here(served):
    """A function that puts the server's addresses in the place of the usual ones."""
    return lambda text: text.replace("127.0.0.1:8501", served.rest).replace("127.0.0.1:8500", served.grpc)


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("base64")), reason="no curl or no base64")
def test_curl(folder, here):
    [script] = examples("sh")
    subprocess.run(["bash", "-e", "-c", here(script)], check=True, timeout=60)
    mask = decoded((folder / "mask.png").read_bytes())
    assert mask.shape == (33, 47) and mask.max() < 3
    assert '"outputs"' in (folder / "columns_answer.json").read_text()


def test_python(folder, here, capsys):
    ours, theirs, onnx = examples("python")
    for code in ours, theirs, onnx:
        exec(compile(here(code), "README.md", "exec"), {})
    rest, grpc, stubs, counts = capsys.readouterr().out.splitlines()
    assert rest == grpc and rest.startswith("ok (33, 47) [")
    assert stubs == "b'ok' (33, 47, 1)"
    assert re.findall(r"'(\w+)': ", counts) == ["ground", "tree", "sky"]
    assert sum(map(int, re.findall(r": (\d+)", counts))) == 33 * 47


@pytest.mark.slow
@pytest.mark.skipif(not NODE_MODULES.is_dir(), reason="no serving/node/node_modules; `make serving-tools` installs it")
def test_javascript(folder):
    [script] = examples("js")
    (folder / "example.mjs").write_text(script)
    (folder / "node_modules").symlink_to(NODE_MODULES)
    done = subprocess.run(["node", "example.mjs"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["[", "1,", "48,", "64", "]", str(48 * 64)]


def test_readme_names_files_and_options_that_exist():
    text = (SERVING / "README.md").read_text()
    for name in re.findall(r"(?<![\w/.])serving/[\w./-]+\w", text):
        assert (PROJECT / name).exists(), name
    for name in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (SERVING / name).exists(), name
    shared = (SERVING / "client.py").read_text()  # the load test has its options, too
    for program in "client.py", "load_test.py", "triton/start.py":
        known = shared + (SERVING / program).read_text()
        for arguments in re.findall(rf"python serving/{program}(.*)", text):
            for option in re.findall(r" (--[a-z][a-z-]+)", arguments):
                assert option == "--help" or f'"{option}"' in known, arguments
