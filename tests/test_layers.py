"""A folder is a room and a layer: what makes it possible to read the project from the bottom up."""

import ast
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| `([\w/.]+)`( \(draws\))? \|")
HEAVY = ("tensorflow", "keras", "dask", "distributed", "prefect", "bokeh", "pandas", "sqlalchemy")
MOST_FILES = 20
MOST_LINES = 600
DOORS = ("api", "cli", "web", "serve", "flows", "show", "__main__")
"""Who may draw, and what draws."""


@cache
def rooms() -> dict[str, int]:
    """Read room → layer from the table of docs/architecture.md, from the ground up."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    names = [row[1] for line in text.splitlines() if (row := ROW.match(line))]
    return {name: layer for layer, name in enumerate(names)}


@cache
def modules() -> dict[str, Path]:
    """Return every module of the project by its dotted name."""
    found = {}
    for top in ("dnnflow", "flows"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def is_package(name: str) -> bool:
    return modules()[name].name == "__init__.py"


def room_of(name: str) -> str:
    """Return the room that a module stands in: its own row of the table, else its folder's."""
    parts = name.split(".")
    own = "/".join(parts[1:]) if parts[0] == "dnnflow" else "flows"
    return own if own in rooms() else "/".join(parts[1:-1]) if parts[0] == "dnnflow" else "flows"


@cache
def imports(name: str) -> frozenset[str]:
    """Return every module of the project that a module imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(modules()[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules() else node.module)
    return frozenset(found)


def inner() -> dict[str, set[str]]:
    """Return the imports between modules of the project, packages' own docstrings apart."""
    return {
        name: {target for target in imports(name) if target in modules() and target != name}
        for name in modules()
        if not is_package(name)
    }


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one node (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for other in edges.get(node, ()):
            if other not in order:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], order[other])
        if lowest[node] == order[node]:
            circle = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(circle) > 1:
                found.append(sorted(circle))

    for node in edges:
        if node not in order:
            visit(node)
    return found


def test_every_module_stands_in_a_room_of_the_table() -> None:
    homeless = {name: room_of(name) for name in modules() if not is_package(name)}
    assert not {name: room for name, room in homeless.items() if room not in rooms()}


def test_every_room_of_the_table_is_there() -> None:
    assert not set(rooms()) - {room_of(name) for name in modules()}


def test_rooms_import_only_what_lies_below_them() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, targets in inner().items()
        for target in targets
        if not is_package(target) and rooms()[room_of(target)] > rooms()[room_of(name)]
    ]
    assert not sorted(wrong)


def test_no_circle_anywhere() -> None:
    assert not circles(inner())


def folder_of(name: str) -> str:
    """Return the top-level folder of a module as the picture of docs/architecture.md names it."""
    parts = name.split(".")
    if parts[0] == "flows" or len(parts) > 2 or parts[1] == "api":
        return parts[0] if parts[0] == "flows" else parts[1]
    return "cli" if parts[1] == "__main__" else "ground"


def test_the_picture_shows_the_imports() -> None:
    """Each import follows from arrows of the picture, and each arrow is an import."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    arrows = set(re.findall(r"^    (\w+) --> (\w+)", text, re.MULTILINE))
    drawn: dict[str, set[str]] = {}
    for above, beneath in arrows:
        drawn.setdefault(above, set()).add(beneath)

    def below(folder: str) -> set[str]:
        return {folder}.union(*(below(one) for one in drawn.get(folder, ())))

    real = {
        (folder_of(name), folder_of(target))
        for name, targets in inner().items()
        for target in targets
        if not is_package(target)
    }
    assert not sorted(pair for pair in real if pair[1] not in below(pair[0]))
    assert not sorted(arrows - real)


def test_nothing_outside_a_folder_imports_its_private_modules() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, targets in inner().items()
        for target in targets
        if target.rsplit(".", 1)[1].startswith("_") and not target.endswith("__")
        and room_of(name) != room_of(target)
    ]  # fmt: skip
    assert not sorted(wrong)


def test_only_doors_draw() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, targets in inner().items()
        for target in targets
        if target.startswith("dnnflow.show.") and room_of(name).split("/")[0] not in DOORS
    ]
    assert not sorted(wrong)


@pytest.mark.parametrize("name", [name for name in modules() if not name.startswith("flows")])
def test_only_flows_import_prefect(name: str) -> None:
    assert not any(target.split(".")[0] == "prefect" for target in imports(name))


def test_a_rooms_door_is_one_docstring() -> None:
    for name, path in modules().items():
        if is_package(name) and name not in ("dnnflow", "flows"):
            tree = ast.parse(path.read_text())
            assert ast.get_docstring(tree), f"{name} does not say what lives there"
            assert len(tree.body) == 1, f"{name} holds logic"


def test_a_file_name_occurs_once() -> None:
    names = [name for name in modules() if name.startswith("dnnflow") and not is_package(name)]
    counts = Counter(name.rsplit(".", 1)[1] for name in names)
    assert not [name for name, count in counts.items() if count > 1]


def test_a_class_name_occurs_once() -> None:
    """A reader who meets a name must know which thing it is."""
    names: Counter[str] = Counter()
    for path in modules().values():
        body = ast.parse(path.read_text()).body
        names.update(node.name for node in body if isinstance(node, ast.ClassDef) and node.name[0] != "_")
    assert not sorted(name for name, count in names.items() if count > 1)


def test_rooms_can_be_taken_in_at_a_glance() -> None:
    counts = Counter(str(path.parent.relative_to(ROOT)) for path in modules().values())
    assert not {folder: count for folder, count in counts.items() if count > MOST_FILES + 1}


def test_modules_stay_readable() -> None:
    """Longer ones need a sentence why in this list."""
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert not {name: length for name, length in lengths.items() if length > MOST_LINES}


def test_module_docstrings_say_what_the_module_does() -> None:
    """A verb first: a newcomer reads a folder by its first lines."""
    nouns = re.compile(r"(What|Who|Which|How|Where|When|Whether)\b")
    wrong = [
        name for name, path in modules().items()
        if nouns.match(ast.get_docstring(ast.parse(path.read_text())) or "")
    ]  # fmt: skip
    assert not wrong


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in run.stdout.split()}


def test_importing_dnnflow_loads_nothing_heavy() -> None:
    assert not loaded_by("import dnnflow") & set(HEAVY)


def test_the_command_line_starts_without_heavy_libraries() -> None:
    assert not loaded_by("import dnnflow.cli.main") & {*HEAVY, "numpy"}


def test_low_layers_load_no_training_or_cluster_library() -> None:
    low = "design.layers", "design.space", "engines.records", "table.columns.recipe"
    statement = f"import {', '.join(f'dnnflow.{name}' for name in low)}"
    assert not loaded_by(statement) & {"tensorflow", "keras", "distributed", "prefect"}


def test_a_parallel_trainings_driver_and_worker_choose_when_tensorflow_is_imported() -> None:
    """Its threads and the kernels that it may use must be set before, and its notes held back."""
    names = "parallel.driver.training", "parallel.replica.replica", "run.train"
    first = f"import {', '.join(f'dnnflow.{name}' for name in names)}"
    assert not loaded_by(first) & {"tensorflow", "keras"}
