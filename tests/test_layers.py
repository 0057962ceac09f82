"""Lower layers never import higher ones: what makes it possible to read the project from the bottom up."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\| (\d) \| (.+?) \|")
HEAVY = ("tensorflow", "keras", "dask", "distributed", "prefect", "bokeh", "pandas", "sqlalchemy")


def layer_table() -> dict[str, int]:
    """Read module → layer from the table in docs/architecture.md."""
    table: dict[str, int] = {}
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        row = ROW.match(line)
        if row:
            for name in re.findall(r"`([\w./*]+)`", row[2]):
                table[name] = int(row[1])
    return table


def modules() -> list[Path]:
    return [path for top in ("dnnflow", "flows") for path in sorted((ROOT / top).rglob("*.py"))]


def name_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return str(relative if relative.parts[0] == "flows" else relative.relative_to("dnnflow")).removesuffix(
        ".py"
    )


def layer_of(name: str, table: dict[str, int]) -> int | None:
    """Return a module's layer: its own entry's, else its folder's."""
    return table.get(name, table.get(f"{name.split('/')[0]}/*"))


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_package(path: Path) -> bool:
    return path.name == "__init__.py"


def test_every_module_has_a_layer() -> None:
    table = layer_table()
    missing = [name_of(p) for p in modules() if not is_package(p) and layer_of(name_of(p), table) is None]
    assert not missing, f"not in the table of docs/architecture.md: {missing}"


def test_every_layer_entry_is_a_module() -> None:
    known = {name_of(path) for path in modules()}
    folders = {f"{name.split('/')[0]}/*" for name in known if "/" in name}
    assert not sorted(set(layer_table()) - known - folders)


def test_lower_layers_never_import_higher_ones() -> None:
    table = layer_table()
    layers = {
        name_of(path): layer_of(name_of(path), table) or 0 for path in modules() if not is_package(path)
    }
    wrong = []
    for path in modules():
        for target in imports(path) if not is_package(path) else ():
            name, other = name_of(path), target.removeprefix("dnnflow.").replace(".", "/")
            if target.startswith("dnnflow.") and layers.get(other, 0) > layers[name]:
                wrong.append(f"{name} imports {other}")
    assert not sorted(wrong)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_flows_import_prefect(path: Path) -> None:
    uses = any(target.split(".")[0] == "prefect" for target in imports(path))
    assert not uses or path.is_relative_to(ROOT / "flows")


def test_package_files_hold_no_logic() -> None:
    for path in modules():
        if is_package(path) and path.parent != ROOT / "dnnflow":
            assert len(ast.parse(path.read_text()).body) <= 1, path


def test_modules_stay_readable() -> None:
    long = [f"{name_of(p)}: {n}" for p in modules() if (n := len(p.read_text().splitlines())) > 400]
    assert not long


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in run.stdout.split()}


def test_importing_dnnflow_loads_nothing_heavy() -> None:
    assert not loaded_by("import dnnflow") & set(HEAVY)


def test_the_command_line_starts_without_heavy_libraries() -> None:
    assert not loaded_by("import dnnflow.cli") & {*HEAVY, "numpy", "pydantic"}


def test_low_layers_load_no_training_or_cluster_library() -> None:
    low = "import dnnflow.design.layers, dnnflow.design.space, dnnflow.training.records, dnnflow.data.recipe"
    assert not loaded_by(low) & {"tensorflow", "keras", "distributed", "prefect"}


def test_a_parallel_trainings_driver_and_worker_choose_when_tensorflow_is_imported() -> None:
    """Its threads and the kernels that it may use must be set before, and its notes held back."""
    first = (
        "import dnnflow.parallel.driver, dnnflow.parallel.replica, dnnflow.train_job, dnnflow.train_pipeline"
    )
    assert not loaded_by(first) & {"tensorflow", "keras"}
