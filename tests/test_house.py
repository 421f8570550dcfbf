"""Limits of the code: length of functions, their parameters, floors of imports."""

import ast
import inspect
import re
import tomllib
from pathlib import Path

import pytest

import sklearn_convexnn

PACKAGE = Path(sklearn_convexnn.__file__).parent
TEXTS = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path.read_text(
        encoding="utf-8"
    )
    for path in PACKAGE.rglob("*.py")
}
FOLDERS = {name.removesuffix(".__init__") for name in TEXTS if "__init__" in name}
TEXTS = {name.removesuffix(".__init__"): text for name, text in TEXTS.items()}
TREES = {name: ast.parse(text) for name, text in TEXTS.items()}

# Lines of code of a function, its parameters, and modules on a chain of imports.
MOST = {"Long": 60, "Many parameters": 8}
MOST_FLOORS = 10
# A function beyond a limit says why, in a comment "# Long: ..." or "# Many
# parameters: ..." on the line of its def or above.


def functions(tree, name):
    """Functions of a module with their names, also those within others."""
    for node in ast.iter_child_nodes(tree):
        inner = name
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            inner = f"{name}.{node.name}"
        if isinstance(node, ast.FunctionDef):
            yield inner, node
        yield from functions(node, inner)


def lines_of_code(module):
    """Numbers of lines that are not blank, or comments or docstrings only."""
    lines = {
        number
        for number, line in enumerate(TEXTS[module].splitlines(), 1)
        if line.strip() and not line.strip().startswith("#")
    }
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return lines


def n_parameters(node):
    """How many parameters a function has, without the object of a method."""
    some = node.args
    named = [*some.posonlyargs, *some.args, *some.kwonlyargs, some.vararg, some.kwarg]
    return sum(one is not None and one.arg not in ("self", "cls") for one in named)


def is_face(module):
    """Whether users call what is there; it may have many parameters."""
    inner = module.removeprefix("sklearn_convexnn.")
    return inner == "_base" or not ("." in inner or inner.startswith("_"))


def beyond(limit):
    """Names of the functions beyond a limit that do not say why."""
    for module, tree in TREES.items():
        if limit == "Many parameters" and is_face(module):
            continue
        code, lines = lines_of_code(module), TEXTS[module].splitlines()
        for name, node in functions(tree, module):
            size = n_parameters(node)
            if limit == "Long":
                size = len(code.intersection(range(node.lineno, node.end_lineno + 1)))
            near = lines[max(node.lineno - 2, 0) : node.lineno]
            if size > MOST[limit] and not any(f"# {limit}: " in line for line in near):
                yield name.removeprefix("sklearn_convexnn.")


def imported(module):
    """Modules of the package that another one imports, also within functions."""
    names = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom):
            # What is imported from a folder may be a module.
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            names.update(part if part in TREES else node.module for part in parts)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names.intersection(TREES) - {module}


def n_floors():
    """Modules on the longest chain of imports; of a circle, all that are in it."""
    below = {module: imported(module) for module in TREES}
    reached = {module: {module} for module in below}
    for _ in below:
        for module, names in below.items():
            reached[module].update(*(reached[name] for name in names))
    floors = {}
    # What a circle imports reaches less than the circle does.
    for module in sorted(below, key=lambda module: len(reached[module])):
        circle = {name for name in reached[module] if module in reached[name]}
        outside = [floors[name] for part in circle for name in below[part] - circle]
        # The file of a folder is a list of names, and not a floor.
        own = sum(name not in FOLDERS for name in circle)
        floors[module] = own + max(outside, default=0)
    return max(floors.values())


@pytest.mark.parametrize("limit", MOST)
def test_functions_are_small(limit):
    assert not [*beyond(limit)]


def test_few_floors():
    assert n_floors() <= MOST_FLOORS


def test_citation_has_the_version():
    citation = Path(__file__).parents[1] / "CITATION.cff"
    version = f"\nversion: {sklearn_convexnn.__version__}\n"
    assert version in citation.read_text(encoding="utf-8")


def linted():
    """Files whose docstrings are checked, and the names in them that are not."""
    root = Path(__file__).parents[1]
    command = (root / ".ci" / "run").read_text(encoding="utf-8")
    braces = re.findall(r"sklearn_convexnn/_\{([\w,]+)\}\.py", command)
    private = {f"_{stem}" for part in braces for stem in part.split(",")}
    with open(root / "pyproject.toml", "rb") as file:
        excluded = tomllib.load(file)["tool"]["numpydoc_validation"]["exclude"]
    return private, excluded


def methods():
    """Modules and names of functions that users call: exported, or public methods."""
    for name in sklearn_convexnn.__all__:
        one = getattr(sklearn_convexnn, name)
        if inspect.isfunction(one):
            yield f"{one.__module__}:{name}"
        elif inspect.isclass(one):
            yield from (
                f"{method.__module__}:{method.__qualname__}"
                for key, method in inspect.getmembers(one, inspect.isfunction)
                if key[0] != "_" and method.__module__.startswith(PACKAGE.name)
            )


@pytest.mark.parametrize("name", sorted({*methods()}))
def test_docstrings_are_checked(name):
    private, excluded = linted()
    *folders, stem = name.split(":")[0].split(".")[1:]
    assert stem in private or not any(part[0] == "_" for part in [*folders, stem])
    # As numpydoc calls it.
    name = f"{stem}.{name.split(':')[1]}"
    assert not [pattern for pattern in excluded if re.search(pattern, name)]
