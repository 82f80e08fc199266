"""Imports run one way: a module uses only what stands below it, and the pages of the library know no command."""

import ast
from pathlib import Path

import pytest

import tfssl

ROOT = Path(tfssl.__file__).parent

# From the ground up. A module may import what stands on a lower line, and its own package; nothing else of ours.
LAYERS = [
    ["disk", "errors", "interruptions", "kinds", "randomness", "resizing", "soundness", "tables"],
    ["serve"],  # a command that needs a SavedModel and nothing else of ours
    ["losses", "ema", "mixing", "memory", "heads", "schedules", "config", "optimizers", "checkpoints", "pictures",
     "figures", "data", "networks", "measures", "protocols", "selection", "strategies"],
    ["tasks", "report_data", "folders"],
    ["methods"],
    ["runs"],
    ["alarms", "evaluate", "export", "report", "predict", "datasheet", "dry_run", "data_of_run"],
    ["callbacks", "comparison", "next_labels"],
    ["advise"],
    ["fit", "compare"],
]  # fmt: skip
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules():
    """{dotted name without "tfssl.": path} of every module but the package's own."""
    paths = {path.relative_to(ROOT).with_suffix(""): path for path in ROOT.rglob("*.py")}
    names = {".".join(part for part in name.parts if part != "__init__"): path for name, path in paths.items()}
    return {name: path for name, path in names.items() if name}


def imported(path):
    """The dotted names of our modules that a file imports anywhere in it, in functions too."""
    known, found = modules(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            inside = [f"{node.module}.{alias.name}".removeprefix("tfssl.") for alias in node.names]
            found |= {name if name in known else node.module.removeprefix("tfssl.") for name in inside}
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("tfssl.") for alias in node.names}
    return found & known.keys()


def top(name):
    return name.split(".")[0]


def test_every_module_has_its_place():
    assert {top(name) for name in modules()} == set(LEVEL)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_run_one_way(name):
    for other in imported(modules()[name]):
        if name == "data.__main__":  # a command, which must stand in its package
            continue
        same_package = top(other) == top(name) and (ROOT / top(name)).is_dir()
        assert same_package or LEVEL[top(other)] < LEVEL[top(name)], f"tfssl.{name} imports tfssl.{other}"


def test_no_module_reaches_itself_by_its_imports():
    """Within a package too: the imports have an order in which every module can be read after all it uses."""
    left = {name: imported(path) for name, path in modules().items()}
    while left:
        ready = [name for name, others in left.items() if not others & left.keys()]
        assert ready, f"these import each other: {sorted(left)}"
        for name in ready:
            del left[name]


def test_methods_see_neither_data_nor_configuration():
    for name, path in modules().items():
        if top(name) == "methods":
            assert not {top(other) for other in imported(path)} & {"data", "config", "networks", "runs"}, name


def test_a_method_is_a_page():
    """Of about 200 lines; base is what all pages share."""
    for name, path in modules().items():
        if top(name) == "methods" and name != "methods.base":
            assert len(path.read_text(encoding="utf-8").splitlines()) < 220, name


def test_the_reader_of_imports_sees_them(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "import numpy\nimport tfssl.ema\nfrom tfssl import losses as l, runs\nfrom tfssl.data.check import Pair\n"
        "def later():\n    from tfssl.networks import weights, build\n"
    )
    assert imported(path) == {"ema", "losses", "runs", "data.check", "networks.weights", "networks"}
