"""What all designs of a study share, small enough to go along with every task."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from dnnflow.engines.records import TrainingSettings
from dnnflow.errors import InputError


@dataclass(frozen=True)
class Job:
    """Where the rows are and how to train on them. Carries no rows."""

    dataset: str
    """Path of the dataset's directory, valid on the worker."""
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: a GPU where the process has one."""
    import_paths: tuple[str, ...] = ()
    """Folders in which modules of `module:name` (engines, designs by reference) are also looked for."""
    activations: tuple[str, ...] = ()
    """All that occur in the study: stacks of mixed activations can then share a trace."""

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "gpu"):
            raise InputError(f"device must be auto, cpu or gpu, got {self.device!r}")


def make_importable(folders: Iterable[str]) -> None:
    """Append folders to this process's module search path, each once: what is installed comes first."""
    sys.path.extend(folder for folder in dict.fromkeys(folders) if folder not in sys.path)
