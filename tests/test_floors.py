"""The house stands: imports only go down, the wings never meet, one door to the GPU, nothing grows too large."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mpr_dist"
FLOORS = {
    "errors": 0,
    "units": 0,
    "arrays": 0,
    "maths": 1,
    "model": 2,
    "imaging": 3,
    "storage": 3,
    "engine": 3,
    "refinement": 4,
    "workflow": 5,
    "cli": 6,
}
WINGS = {"imaging", "storage", "engine"}
# Rooms that may see less than their floor allows.
ONLY = {
    "engine": {"errors", "units", "arrays", "engine"},
    "refinement": {"errors", "units", "arrays", "maths", "model", "imaging", "refinement"},
}
# The rooms of workflow/, from the bottom: a room knows itself and those before it.
WORKFLOW = (
    "state",
    "series",
    "reporting",
    "running",
    "importing",
    "simulation",
    "exporting",
    "changing",
    "checking",
    "benchmarks",
)
LONGEST_FUNCTION, LONGEST_FILE = 60, 400

FILES = sorted(PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts in (("__init__",), ("__main__",)) else parts[0]


def _imports(path: Path) -> Iterator[str]:
    """Full names of all modules a file imports, inside functions, too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _rooms_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in _imports(path))
    return {parts[1] for parts in names if parts[0] == "mpr_dist" and len(parts) > 1 and not parts[1].startswith("__")}


@pytest.fixture(params=FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def file(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def test_every_room_has_a_floor(file: Path) -> None:
    assert _room(file) in {"", *FLOORS}


def test_imports_only_go_down(file: Path) -> None:
    room = _room(file)
    if room == "":
        return
    for other in _rooms_imported(file):
        assert other in FLOORS, f"{file.name} imports the unknown room {other}"
        assert other == room or FLOORS[other] < FLOORS[room] or FLOORS[room] == 0 == FLOORS[other], (
            f"{room} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"
        )


def test_the_wings_never_meet(file: Path) -> None:
    room = _room(file)
    if room in WINGS:
        assert not (_rooms_imported(file) & WINGS - {room})
    if room in ONLY:
        assert _rooms_imported(file) <= ONLY[room]


def test_the_rooms_of_workflow_have_an_order(file: Path) -> None:
    parts = file.relative_to(PACKAGE).parts
    if parts[0] != "workflow" or parts[1:] == ("__init__.py",):
        return
    assert parts[1] in WORKFLOW
    for name in _imports(file):
        words = name.split(".")
        if words[:2] == ["mpr_dist", "workflow"]:
            assert WORKFLOW.index(words[2]) <= WORKFLOW.index(parts[1]), f"{parts[1]} imports {name}"


def test_one_door_to_the_gpu(file: Path) -> None:
    if file != PACKAGE / "arrays.py":
        assert not [name for name in _imports(file) if name.split(".")[0] in ("cupy", "cupyx")]


def test_functions_and_files_stay_short(file: Path) -> None:
    text = file.read_text("utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert length <= LONGEST_FUNCTION, f"{node.name}: {length} lines"


def test_nothing_is_caught_blindly(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: bare except"
            names = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)}
            assert not names & {"Exception", "BaseException"}, f"line {node.lineno}: broad except"
