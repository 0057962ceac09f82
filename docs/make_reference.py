"""Write the API reference of every room into docs/reference: `make docs`."""

import pkgutil
from pathlib import Path

import pdoc

import dnnflow

HERE = Path(__file__).parent


def main() -> None:
    """Write one page a module; what pdoc cannot import is told."""
    for name in dnnflow.__all__:  # pdoc looks public names up without importing them
        setattr(dnnflow, name, getattr(dnnflow, name))
    rooms = [f"dnnflow.{info.name}" for info in pkgutil.iter_modules(dnnflow.__path__)]
    pdoc.render.configure(docformat="numpy", footer_text="dnnflow", show_source=False)
    named = [room for room in rooms if room != "dnnflow.__main__"]
    pdoc.pdoc("dnnflow", *named, output_directory=HERE / "reference")


if __name__ == "__main__":
    main()
