"""Define what the server says, as types: the API's responses, and what pages show."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, with_config

from dnnflow.results.view.leaderboard import Ranked
from dnnflow.results.view.model_score import ModelScore
from dnnflow.results.view.next_steps import NextStep
from dnnflow.results.view.tested import Tested
from dnnflow.web.contract.problems import FieldProblem


class ApiReply(BaseModel):
    """Base of all replies: docstrings of fields are the OpenAPI document's descriptions."""

    model_config = ConfigDict(use_attribute_docstrings=True, ser_json_inf_nan="null")


with_config(title="Place", use_attribute_docstrings=True, ser_json_inf_nan="null")(Ranked)
with_config(title="NextStep", use_attribute_docstrings=True)(NextStep)

StateName = Literal[
    "queued", "preparing", "running", "pausing", "paused", "finishing", "stopped", "finished", "failed"
]
"""`finishing`: every design is trained; finalists, the test, models and the report are being made."""


RunStateName = Literal["queued", "running", "finished", "failed", "cancelled"]
"""Of a parallel training."""


class Best(ApiReply):
    """The best design so far."""

    score: float
    """The study's metric on the rows compared on, greater is better: an error is negative."""
    text: str
    """The same as it is usually written, e.g. `93.1 %` or `3.21`."""
    metric: str
    """The metric for people."""
    design_id: str
    """Hash of the design: 64 hexadecimal digits."""
    design: str
    """In words."""


class DatasetFacts(ApiReply):
    """The table of a study."""

    rows: int
    """Used rows: to train and to test."""
    train_rows: int
    """Rows that are trained on, validation rows among them."""
    test_rows: int
    """Rows that the best are measured on once."""
    features: int
    """Network inputs, after one-hot encoding."""
    classes: int
    """Different classes; 0 of numbers."""
    label: str
    """Names of the columns that are predicted, by commas."""
    classes_names: list[str]
    """Names of the classes, at most 1,000."""
    notes: list[str] = []
    """What a person should know of how the table was read."""


class CellGrid(ApiReply):
    """Completed trials counted by hidden layers (columns) and a measure (rows)."""

    first_depth: int
    """Hidden layers of the first column."""
    depth_width: int
    """Hidden layers that a column spans."""
    low: float
    """Lower edge of the first row."""
    height: float
    """What a row spans."""
    cells: list[tuple[int, int, int]]
    """(column, row, trials) of each cell that holds a trial; at most 40 columns and rows."""
    is_cut: bool = False
    """Whether the last row also holds trials far above it."""


class Live(ApiReply):
    """What is drawn while a study runs."""

    score: CellGrid | None
    """The study's metric; null before the first completed trial."""
    time: CellGrid | None
    """Training seconds."""


class StudySummary(ApiReply):
    """Where a study stands, as a list shows it."""

    model_config = ConfigDict(json_schema_extra={"examples": []})

    study_id: str = Field(examples=["Q2m4tY8sVx0aBc1d"])
    """Random and URL-safe."""
    kind: Literal["study", "train"] = "study"
    """`train` is a parallel training: its page and resource is /runs/{study_id}."""
    name: str
    """From its pipeline."""
    tags: list[str] = []
    """Words by which a person finds it."""
    state: StateName
    """`preparing` is before the first design is trained, `finishing` after the last one, until models and
    report are saved; `stopped` can be resumed."""
    total: int | None
    """Designs; null before they are drawn."""
    completed: int
    """Designs with a completed trial."""
    failed: int
    """Failed or lost with their worker."""
    best_score: float | None
    """Its best, of the study's metric; null before the first completed trial."""
    best_of: Literal["ensemble", "winner", "screen"] | None
    """Whose it is: the ensemble's or the winner's on the test rows, where nothing was chosen by these; else
    that of the best of the screen, on the rows that designs are compared on."""
    best_text: str | None
    """The same as it is usually written."""
    created_at: str
    """UTC, ISO 8601."""
    updated_at: str
    """Its last change of state or last trial; UTC, ISO 8601."""


class StudyStatus(ApiReply):
    """Where a study stands, with everything that its page shows while it runs."""

    study_id: str = Field(examples=["Q2m4tY8sVx0aBc1d"])
    """Random and URL-safe."""
    name: str
    """From its pipeline."""
    note: str | None = None
    """What a person wrote about it."""
    tags: list[str] = []
    """Words by which a person finds it."""
    state: StateName
    """`preparing` is before the first design is trained, `finishing` after the last one, until models and
    report are saved; `stopped` can be resumed."""
    stage: str | None
    """What is done now, in words, where that is known."""
    queue_place: int | None
    """Jobs before it, while it is queued."""
    total: int | None
    """Designs; null before they are drawn."""
    completed: int
    """Designs with a completed trial."""
    failed: int
    """Failed or lost with their worker."""
    missing: int | None
    """Designs without a trial."""
    rate: float | None
    """Trials a second, lately; null where nothing is trained now."""
    eta_s: float | None
    """Seconds until the last design is trained, each by its own arithmetic; null before anything is known and
    where nothing is trained."""
    best: Best | None
    """The best design so far; null before the first completed trial."""
    elapsed_s: float | None
    """Since it was begun, to now or its last change."""
    training_s: float
    """Training seconds of all trials, summed."""
    wanted: Literal["run", "pause", "cancel"]
    """What a person wants it to do; its driver obeys within a second."""
    dashboard: str | None
    """Page of the Dask cluster."""
    run_url: str | None
    """Page of the Prefect run."""
    error: str | None
    """Why it failed: rule, value, remedy."""
    created_at: str
    """When it was asked for; UTC, ISO 8601."""
    updated_at: str
    """Its last change of state or last trial; UTC, ISO 8601."""
    dataset: DatasetFacts | None
    """Its table; null before it is preprocessed."""
    live: Live | None
    """Counts of trials to draw; null before the designs are drawn."""


class ListPage(ApiReply):
    """Base of lists that go on."""

    next_cursor: str | None
    """`cursor` of the next page; null on the last."""


class StudyPage(ListPage):
    """Studies, the newest first."""

    studies: list[StudySummary]
    """As the filters leave them."""


class Health(ApiReply):
    """Whether the server can work."""

    status: Literal["ok", "degraded"]
    """`degraded`: the server answers, and its store does not."""
    store: Literal["reachable", "unreachable"]
    """Whether the database answers."""
    launcher: str
    """What runs the jobs, in words."""
    version: str
    """Of dnnflow."""


class Created(ApiReply):
    """A job that was handed over."""

    study_id: str
    """Its page is /studies/{study_id} from now on."""
    name: str
    """From its pipeline."""
    state: StateName
    """Where it stands now."""
    url: str
    """Path of its page."""


class Leaderboard(ApiReply):
    """The best designs of a study."""

    places: list[Ranked]
    """The best first; finalists stand before all others."""
    noise: str | None
    """How far the first place can be trusted, in words."""
    majority_rate: float | None
    """Accuracy of always guessing the largest class."""
    measured_rows: int
    """Rows that these accuracies are measured on."""
    selected_on: Literal["validation", "test"]
    """Which rows these are."""
    tested: list[Tested]
    """What is handed out, best first, then baselines: measured once, on test rows."""
    sentence: str | None
    """What the best design is worth, in words."""
    next_steps: list[NextStep]
    """What to do next, the most useful first."""
    edges: list[str]
    """Where the best designs lie at the edge of the space, in words."""
    finalist_rows: int | None
    """Rows that finalists were scored on, each training on those it was not fitted to; null without any.
    Scores of finalists and of the other places are of other rows: they are not to be compared."""


class SpaceChange(ApiReply):
    """A parameter of the space that is another one in the wider study."""

    parameter: str
    """Its key in the section `space`."""
    before: Any
    """What the first study says."""
    after: Any
    """What the wider one says."""


class Widened(Created):
    """A wider study that was handed over."""

    changes: list[SpaceChange]
    """What its space has that the first one's had not."""


class Compared(ApiReply):
    """One of two studies that are compared."""

    status: StudyStatus
    """Where the study stands."""
    places: list[Ranked]
    """The ten best."""
    median_score: float | None
    """Of all completed trials; null without one."""
    median_training_s: float | None
    """Of all completed trials; null without one."""
    measured_rows: int
    """Rows that designs are compared on."""
    majority_rate: float | None
    """Accuracy of always guessing the largest class."""


class Difference(ApiReply):
    """Where two pipelines differ."""

    where: str
    """Dotted path."""
    a: Any
    """What the first says; null where it says nothing."""
    b: Any
    """What the second says; null where it says nothing."""


class Comparison(ApiReply):
    """Two studies side by side."""

    a: Compared
    """The study that was named first."""
    b: Compared
    """The study that was named second."""
    same_table: bool
    """Whether they were trained and tested on the same rows: only then are accuracies comparable."""
    best_difference: float | None
    """Best accuracy of b less that of a."""
    within_noise: bool | None
    """Whether the two best cannot be told apart on so many rows."""
    pipeline: list[Difference]
    """Where their pipelines differ."""


class RunStatus(ApiReply):
    """Where a parallel training stands."""

    run_id: str = Field(examples=["Q2m4tY8sVx0aBc1d"])
    """Random and URL-safe."""
    name: str
    """From its pipeline."""
    state: RunStateName
    """`cancelled`: ended by a person."""
    stage: str | None
    """What is done now, in words, where that is known."""
    queue_place: int | None
    """Runs before it, while it is queued."""
    progress: dict[str, Any] | None
    """Samples, total, rate, loss, measures, replicas."""
    outcome: dict[str, Any] | None
    """Of a finished training: the last row of its history."""
    has_report: bool
    """Whether /report answers."""
    has_model: bool
    """Whether the trained model is saved."""
    error: str | None
    """Why it failed: rule, value, remedy."""
    dashboard: str | None
    """Page of the Dask cluster."""
    run_url: str | None
    """Page of the Prefect run."""
    created_at: str
    """When it was asked for; UTC, ISO 8601."""
    started_at: str | None
    """When it was begun; null while it is queued."""
    ended_at: str | None
    """When it ended; null before."""


class RunPage(ListPage):
    """Parallel trainings, the newest first."""

    runs: list[RunStatus]
    """As the filters leave them."""


class Spread(ApiReply):
    """How a number spreads over designs."""

    least: float
    """The smallest."""
    median: float
    """Half are below it."""
    most: float
    """The largest."""


class Estimate(ApiReply):
    """What a pipeline would train, as far as that can be told before."""

    valid: bool
    """Whether a study of it would start."""
    designs: int | None
    """Different designs; null for an invalid pipeline."""
    sampled: int
    """Designs that the other numbers are taken from."""
    features: int | None
    """Network inputs, after one-hot encoding."""
    classes: int | None
    """Network outputs: classes, or labels or numbers to predict."""
    parameters: Spread | None
    """Weights of a design."""
    processor_s: float | None
    """Seconds for all designs, roughly: what else the workers do, and which they are, is not known."""
    seconds_s: float | None
    """The same on all of this machine's cores."""
    problems: list[FieldProblem]
    """What is wrong; `valid` says whether anything is."""


class ClassCount(ApiReply):
    """A value of a column and its rows."""

    value: str
    """As the table writes it."""
    rows: int
    """Rows with this value."""


class ColumnReply(ApiReply):
    """One column of an upload."""

    model_config = ConfigDict(title="Column")

    index: int
    """Place in the table, from 0."""
    name: str
    """From the table's header."""
    kind: Literal["number", "text", "boolean", "time", "duration", "empty", "other"]
    """What all its values are; `other` of a type that no study takes."""
    missing: int
    """Rows without a value."""
    distinct: int
    """Different values, counted up to 1,001."""
    histogram: list[int]
    """Of numbers: rows in equal bins from `least` to `most`."""
    least: float | None
    """Smallest number; null of other kinds."""
    most: float | None
    """Largest number; null of other kinds."""
    values: list[ClassCount]
    """The most frequent values; of a column that may be the label its classes, all of them."""
    label_problem: str | None
    """Why it cannot be the label; null where it can."""
    feature_problem: str | None = None
    """Why it must be in `dataset.drop` or be the label; null where it may be a feature."""
    label_missing: int = 0
    """Rows without a label, if it is the label: None is a class of a label."""
    label_notes: list[str] = []
    """What a person should know of its classes, if it is the label."""


class DatasetBase(ApiReply):
    """What every reply says of an upload."""

    upload_id: str
    """Random and URL-safe."""
    source: str = Field(examples=["upload:Zk3v0mJq8WcR1x9s"])
    """What a pipeline's `dataset.source` says for it."""
    name: str
    """Of the file, as the sender called it."""
    size_bytes: int
    """As sent."""
    text_bytes: int
    """Unpacked."""
    digest: str
    """sha256 of what was sent."""
    created_at: str
    """When it was received; UTC, ISO 8601."""
    expires_at: str
    """When it is deleted, unless a study needs it; UTC, ISO 8601."""
    rows: int
    """Without the header."""


class DatasetSummary(DatasetBase):
    """An upload as a list shows it."""

    columns: int
    """Their number."""


class Datasets(ApiReply):
    """Uploads, the newest first."""

    datasets: list[DatasetSummary]
    """All that the filters leave."""


class DatasetReply(DatasetBase):
    """An upload with its profile."""

    model_config = ConfigDict(title="Dataset")

    columns: list[ColumnReply]
    """Each with its profile, in the table's order."""
    first_rows: list[list[str]]
    """As written in the file, at most 10."""
    reading: dict[str, Any]
    """Kind, delimiter, quote, encoding, header and the like, as said or as found out."""
    asked: dict[str, Any]
    """What of that was said."""
    notes: list[str]
    """What a person should know of how the table was read."""
    parts: list[str]
    """Sheets of a workbook, or tables of a database, of which one was read."""


class LabelCheck(ApiReply):
    """Whether a column can be the label."""

    column: str
    """Its name."""
    usable: bool
    """Whether it can be the label."""
    problem: str | None
    """Rule, value, remedy; null where it can be."""
    missing: int
    """Rows without a label, which are left out."""
    classes: list[ClassCount]
    """The most frequent values with their rows; all where it can be the label."""
    notes: list[str]
    """What a person should know of its classes."""


class GoodRules(ApiReply):
    """What a study of an upload starts from, and what was found of its columns."""

    pipeline: dict[str, Any]
    """The good rules beside this label, as they are sent to /api/v1/studies."""
    left_out: dict[str, str]
    """Columns in its `drop` that no network learns from, and why."""
    notes: list[str]
    """What to know of the other columns; one that predicts the label alone begins with LEAK?."""
    problem: str | None
    """Why the columns could not be looked at; null where they were."""


class ModelInfo(ApiReply):
    """A model that a study has saved."""

    model: str = Field(examples=["1", "ensemble", "final"])
    """What its address ends with: a rank, `ensemble`, or `final`."""
    rank: int | None
    """1 is the best; null of the ensemble and of the model on all rows."""
    name: str
    """In words."""
    size_bytes: int
    """Of the .keras file."""
    classes: list[str]
    """Names of the classes; none of numbers."""
    columns: list[str]
    """Names of the columns that it reads."""
    design_id: str | None
    """Hash of the design; null of the ensemble."""
    score: float | None
    """The study's metric on the test rows, greater is better; None where it was not measured there."""
    text: str | None
    """The same as it is usually written, with the metric's name, e.g. `accuracy 93.1 %`."""
    is_chosen_there: bool
    """Whether it was chosen by these rows, which makes it look better than it is."""


class Models(ApiReply):
    """Models of a study: by rank, then the ensemble, then the model on all rows."""

    models: list[ModelInfo]
    """Those that are saved; none before a study ends."""


with_config(title="Score", use_attribute_docstrings=True)(ModelScore)


class Predicted(ApiReply):
    """What is predicted of rows."""

    classes: list[str]
    """All classes, in the order of `probabilities`; of labels `label=value` of each; none of numbers."""
    predictions: list[str]
    """The most probable class of each row; of several labels or numbers their texts, by commas."""
    probabilities: list[list[float]]
    """Of each row, the probability of every class; of labels that of each one's second value."""
    targets: list[str]
    """What is predicted: names of labels or numbers; a single one, as a class, is `prediction`."""
    values: list[list[float | str]]
    """Of each row, each target: a number in the table's units, or a text."""
    notes: list[str] = []
    """What to know of each row, such as a category that the training rows had not; empty where nothing is."""
    reading_notes: list[str] = []
    """What to know of how the rows were read, such as another encoding than that of the table trained on."""
    score: ModelScore | None = None
    """What the model gives on these rows, where they have the label."""
    score_problem: str | None = None
    """Why rows with the label could not be scored."""
