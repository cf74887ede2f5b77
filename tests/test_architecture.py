"""The house keeps its shape: rooms use only the rooms above them, modules stay small, importing does no work."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "softpatch"
MODULES = sorted(SOURCE.rglob("*.py"))
FLOORS = [
    {"errors", "progress", "threads"},
    {"atomic"},
    {"config"},
    {"data"},
    {"features"},
    {"memory"},
    {"training_record"},
    {"stored_model"},
    {"memory_budget", "symmetry"},
    {"alignment"},
    {"passes", "patch_detector"},
    {"scoring"},
    {"results"},
    {"detector"},
    {"changes"},
    {"model_file"},
    {"estimator"},
    {"review"},
    {"bench"},
    {"deploy"},
    {"terminal"},
    {"cli"},
]


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_module(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(tree)
    here = room("softpatch." + ".".join(path.relative_to(SOURCE).with_suffix("").parts))
    if here not in ("", "__init__"):
        for module in imports(path):
            if module.startswith("softpatch.") and room(module) != here:
                assert floor(room(module)) < floor(here), f"{here} must not use {module}"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} needs a docstring"


@pytest.mark.parametrize("name", ["discriminators", "coreset", "neighbours", "selection", "projection"])
def test_leaf_modules_know_nothing_of_files_or_images(name: str) -> None:
    known = imports(SOURCE / "memory" / f"{name}.py")
    assert not {module for module in known if room(module) in ("data", "features", "detector", "cli")}
    assert not known & {"pathlib", "PIL", "os"}


def test_importing_does_no_work() -> None:
    check = (
        "import sys, softpatch; sys.exit(bool({'torch', 'timm', 'matplotlib', 'numba', 'typer'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_nothing_is_unpickled() -> None:
    for path in MODULES:
        own_code = path.name == "compiling.py"  # which this user compiled on this machine
        assert own_code or not imports(path) & {"pickle", "joblib", "shelve", "dill", "cloudpickle"}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
