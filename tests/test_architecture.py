"""The rules of the house that a machine can check, read off the syntax trees."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "perfplan"
MODULES = sorted(PACKAGE.rglob("*.py"))
# Data flows one way: a room imports from itself and from the rooms before it.
ORDER = [
    *("errors", "units", "formulas", "symbolic", "calibration", "optimize", "catalog", "training", "serving"),
    *("placement", "overlap", "validation", "export", "api", "report", "cli"),
]
NEVER = {"formulas": {"errors", "units"}, "cli": {"formulas"}}  # stricter than the order
BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.BoolOp,
    ast.Not,
    ast.For,
    ast.While,
    ast.comprehension,
    ast.Subscript,
    ast.Match,
    ast.Try,
)
ONE_KIND_ONLY = {"max", "min", "round", "int", "float", "sum", "any", "all", "len", "range", "isinstance", "math"}


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def name(path):
    return str(path.relative_to(PACKAGE.parent))


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Dotted names that a module imports, at its top or inside a function."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno} imports relatively; write the full name"
            yield node.module
            if node.module == "perfplan":
                yield from (f"perfplan.{alias.name}" for alias in node.names)


def functions(path):
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def formula_bodies(path):
    return [
        node
        for node in functions(path)
        if any(
            isinstance(d, ast.Call) and isinstance(d.func, ast.Name) and d.func.id == "formula"
            for d in node.decorator_list
        )
    ]


def wrong_way(path):
    here = room(path)
    if here == "__init__":
        return set()
    rooms = {dotted.split(".")[1] for dotted in imports(path) if dotted.startswith("perfplan.")}
    unknown = rooms - set(ORDER)
    return unknown | {
        there
        for there in rooms - {here} - unknown
        if ORDER.index(there) > ORDER.index(here) or there in NEVER.get(here, ())
    }


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_go_one_way(path):
    assert not wrong_way(path), f"{name(path)} imports {wrong_way(path)}, which it must not know"


def dotted(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imported(path, modules):
    """Modules of the package that a module imports, anywhere in it."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            yield from inside or {node.module} & modules


def test_no_modules_import_each_other_in_a_circle():
    modules = {dotted(path) for path in MODULES}
    order = TopologicalSorter({dotted(path): set(imported(path, modules)) for path in MODULES})
    assert len(list(order.static_order())) == len(MODULES)  # a circle raises


def test_every_room_has_its_place():
    assert {room(path) for path in MODULES} - {"__init__"} <= set(ORDER)


def test_only_the_symbolic_room_knows_sympy():
    knowing = {name(path) for path in MODULES if any(dotted.split(".")[0] == "sympy" for dotted in imports(path))}
    assert {path for path in knowing if not path.startswith("perfplan/symbolic/")} <= {"perfplan/formulas/core.py"}
    core = tree(PACKAGE / "formulas" / "core.py")
    assert not any(isinstance(node, ast.Import | ast.ImportFrom) and "sympy" in ast.dump(node) for node in core.body)


def test_the_planner_never_sees_sympy():
    code = "import sys, perfplan.api, perfplan.validation.training; sys.exit('sympy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", [path for path in MODULES if room(path) == "cli"], ids=name)
def test_the_command_line_does_not_compute(path):
    sums = [
        node.lineno
        for node in ast.walk(tree(path))
        if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.Add | ast.BitOr | ast.Mod)
    ]
    assert not sums, f"{name(path)} calculates in lines {sums}; that belongs into the library"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 600


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_functions_are_short(path):
    def length(node):
        body = node.body[1:] if ast.get_docstring(node) else node.body
        return node.end_lineno - body[0].lineno + 1 if body else 0

    long = {node.name: length(node) for node in functions(path) if length(node) > 80}
    assert not long


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_public_names_are_documented(path):
    scopes = [tree(path), *(node for node in tree(path).body if isinstance(node, ast.ClassDef) and node.name[0] != "_")]
    members = chain.from_iterable(scope.body for scope in scopes)
    bare = [
        node.name
        for node in members
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and node.name[0] != "_"
        and not ast.get_docstring(node)
    ]
    assert not bare and ast.get_docstring(tree(path)) is not None or path.read_text() == "", bare


@pytest.mark.parametrize("path", [path for path in MODULES if formula_bodies(path)], ids=name)
def test_formulas_are_one_body_for_numbers_columns_and_symbols(path):
    """Choices are made with `where` and `maximum`, never by the truth of an argument, so that every kind passes."""
    for body in formula_bodies(path):
        nodes = list(chain.from_iterable(ast.walk(statement) for statement in body.body))
        branches = [
            node for node in nodes if isinstance(node, BRANCHES) or isinstance(node, ast.Compare) and len(node.ops) > 1
        ]
        calls = [node.id for node in nodes if isinstance(node, ast.Name) and node.id in ONE_KIND_ONLY]
        assert not branches and not calls, (name(path), body.name, [ast.unparse(node) for node in branches], calls)
