"""Imports run one way: from the faces down to losses."""

import ast
from pathlib import Path

import pytest

import sklearn_convexnn

PACKAGE = Path(sklearn_convexnn.__file__).parent
# A room may import from those before it.
ROOMS = [
    "_sklearn",
    "_utils",
    "losses",
    "model",
    "programs",
    "patterns",
    "solvers",
    "families",
    "training",
    "",
]


def room(module):
    """The folder of a module of the package; empty for the faces at its root."""
    parts = module.split(".")[1:]
    return parts[0] if parts and parts[0] in ROOMS else ""


def imports(path):
    """Modules of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize(
    "path",
    sorted(PACKAGE.rglob("*.py")),
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_imports_run_one_way(path):
    module = ".".join([PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts])
    for name in imports(path):
        if name.split(".")[0] == PACKAGE.name:
            assert ROOMS.index(room(name)) <= ROOMS.index(room(module)), name
