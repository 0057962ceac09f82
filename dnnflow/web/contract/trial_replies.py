"""Define what the server says of trials, one by one and as plots."""

from typing import Any, Literal

from dnnflow.web.contract.replies import ApiReply, ListPage


class TrialRow(ApiReply):
    """One design's training, as a list shows it."""

    design_id: str
    """Hash of the design: 64 hexadecimal digits."""
    design: str
    """In words."""
    state: Literal["completed", "failed", "lost"]
    """`lost`: its worker died each time."""
    score: float | None
    """The study's metric on the rows compared on, greater is better: an error is negative."""
    loss: float | None
    """On the rows compared on."""
    train_score: float | None
    """Running mean over the epoch that was kept; null where the metric is not accuracy."""
    train_loss: float | None
    """As `train_score`."""
    validation_score: float | None
    """Of the epoch that was kept, on validation rows; null without any."""
    validation_loss: float | None
    """As `validation_score`."""
    accuracy: float | None
    """This and the other metrics below: on the rows compared on, where known, once the screen has ended."""
    balanced_accuracy: float | None
    """Mean of the classes' recalls."""
    macro_f1: float | None
    """Mean of the classes' F1."""
    mcc: float | None
    """Matthews' correlation coefficient."""
    r2: float | None
    """Share of the variance that is explained."""
    rmse: float | None
    """Root of the mean squared error, in the table's units."""
    mae: float | None
    """Mean absolute error, in the table's units."""
    training_s: float | None
    """Seconds of fitting; building and evaluating left out."""
    amortised: bool
    """Whether `training_s` is a share of the time of a stack of designs."""
    total_s: float | None
    """Seconds on the worker: build, fit, evaluate."""
    queue_s: float | None
    """Seconds from submission to start."""
    depth: int | None
    """Hidden layers."""
    units: int | None
    """Of the first hidden layer; null without one."""
    activation: str | None
    """Of the hidden layers; `mixed` where they differ."""
    dropout: float | None
    """Mean over the hidden layers."""
    optimizer: str
    """Its name."""
    learning_rate: float | None
    """At the beginning."""
    batch_size: int
    """Rows of a step."""
    epochs: int
    """At most."""
    epochs_run: int
    """Epochs that were trained; fewer where it stopped early."""
    parameters: int | None
    """Weights of the network."""
    flops: int | None
    """Floating-point operations of one row's forward pass."""
    seed: int
    """Of the initial weights and dropout."""
    engine: str
    """What trained it."""
    device: str
    """`cpu` or `gpu`."""
    worker: str
    """Address of the Dask worker, or host and process id."""
    started_at: str
    """UTC, ISO 8601."""
    error_type: str | None
    """Name of the Python exception that ended it; null of a completed one."""
    error_message: str | None
    """What that exception said."""


class TrialPage(ListPage):
    """Trials of a study."""

    trials: list[TrialRow] | list[dict[str, Any]]
    """As sorted; where `fields` names some, these alone."""
    matching: int
    """Trials that the filters leave, on all pages."""


class TrialDetail(TrialRow):
    """Everything that is known of one design's training."""

    description: dict[str, Any]
    """The design as plain data, as `space.explicit` takes it."""
    history: dict[str, list[float | None]]
    """Per epoch: `loss`, `accuracy`, and `val_…` where there are validation rows."""
    confusion: list[list[int]]
    """Test rows, [true class][predicted class]."""
    class_names: list[str]
    """In the order of `confusion`."""
    error_traceback: str | None
    """Of the exception that ended it."""


class Failure(ApiReply):
    """Trials that failed with the same type of error."""

    type: str
    """Name of the Python exception."""
    count: int
    """Trials that it ended."""
    message: str
    """One of their messages."""
    design_id: str
    """One of the designs."""


class Failures(ApiReply):
    """Failures of a study, the most frequent first."""

    failures: list[Failure]
    """One for each type of error."""


class PlotNames(ApiReply):
    """Plots that a study has numbers for."""

    plots: list[str]
    """What /plots/{name} takes."""


class PlotTable(ApiReply):
    """Numbers of the marks of one kind in a plot."""

    columns: list[str]
    """Names, in words."""
    rows: list[list[str | float | int | None]]
    """One a mark, at most 500; null where a number is not finite."""
    left_out: int
    """Marks beyond those."""


class PlotNumbers(ApiReply):
    """The numbers of a plot."""

    legend: list[str]
    """What the plot's legend says; of fitted lines with their numbers."""
    tables: list[PlotTable]
    """One for each kind of mark, the shortest first."""
