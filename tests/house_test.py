"""The house: what may import what, how long a file may be, where TensorFlow may be named, where tests are."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxmini"
FILES = sorted(PACKAGE.rglob("*.py"))

# A module imports from its own room and from rooms of a lower number. Rooms of the same number do not
# know each other.
ROWS = {
    # words
    "axis": 0.0,
    "state": 0.1,
    "model": 0.2,
    "record": 0.3,
    "near_miss": 0.0,
    "cpu": 0.0,
    # maths
    "losses": 1,
    "models": 1,
    "data": 1,
    # transformations
    "compress": 2,
    "steps": 2,
    # outcomes: evaluate runs the files that export writes
    "export": 3.0,
    "evaluate": 3.1,
    # time
    "run": 4.0,
    "inspection": 4.1,
    "demo": 4.2,
    # people
    "parse": 5.0,
    "mistake": 5.0,
    "recipe": 5.1,
    "__main__": 5.2,
}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(path: Path) -> set[str]:
    """Every ``jaxmini`` module the file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= whole if node.module == "jaxmini" else {node.module}
    return {name for name in found if name.split(".")[0] == "jaxmini"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_from_rows_above(path: Path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for module in imports(path):
        other = room(module)
        assert other == own or ROWS[other] < ROWS[own], f"{own} must not import {module}"


def test_every_room_has_a_row():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES} - {
        "__init__"
    }
    assert rooms <= set(ROWS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short_and_say_what_they_are(path: Path):
    text = path.read_text()
    assert text.count("\n") <= 400
    assert path.name == "__init__.py" or ast.get_docstring(ast.parse(text))


def test_tensorflow_is_imported_only_where_it_is_called():
    users = {"convert_jax2tf.py", "jax2tf.py", "run_saved_model.py", "tfds.py", "tensorboard.py"}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] in ("tensorflow", "tensorflow_datasets") for name in names):
                assert path.name in users, f"{path} imports TensorFlow"


def test_optional_packages_are_imported_inside_functions():
    """Scripts of child processes import what they like."""
    optional = {"ai_edge_litert", "litert_converter", "onnx", "onnxruntime", "tflite_micro"}
    scripts = {"convert_jax2tf.py", "convert_litert.py", "run_saved_model.py"}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found = optional & {name.split(".")[0] for name in names}
            assert not found or path.name in scripts, f"{path} imports {found}"


def test_no_room_without_a_noun():
    for path in FILES:
        assert not {"utils", "util", "common", "helpers", "misc"} & {*path.parts, path.stem}


# Modules without a test file of their name, and why they need none.
TESTED_ELSEWHERE = {
    "evaluate/run_saved_model.py": "TensorFlow's process: evaluate/saved_model_test.py runs it",
    "export/convert_jax2tf.py": "TensorFlow's process: every file that jax2tf writes went through it",
    "export/convert_litert.py": "the converter's process: every file that litert writes went through it",
    "export/signature.py": "names alone",
}


def test_every_module_has_a_test_file_of_its_name():
    """``jaxmini/a/b.py`` is tested by ``tests/a/b_test.py``; ``__main__`` by ``main_test.py``."""
    modules = [path.relative_to(PACKAGE) for path in FILES if path.name != "__init__.py"]
    missing = {
        module.as_posix()
        for module in modules
        if not (ROOT / "tests" / module.with_name(f"{module.stem.strip('_')}_test.py")).exists()
    }
    assert missing == set(TESTED_ELSEWHERE)
