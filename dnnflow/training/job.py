"""What all designs of a study share, small enough to go along with every task."""

from dataclasses import dataclass, field
from typing import Literal

from dnnflow.errors import InputError
from dnnflow.training.records import TrainingSettings


@dataclass(frozen=True)
class Job:
    """Where the rows are and how to train on them. Carries no rows."""

    dataset: str
    """Path of the dataset's directory, valid on the worker."""
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: a GPU where the process has one."""

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "gpu"):
            raise InputError(f"device must be auto, cpu or gpu, got {self.device!r}")
