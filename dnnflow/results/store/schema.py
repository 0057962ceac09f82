"""Declare the tables of the results store, make them, and bring those of older versions up in place."""

import json
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from dnnflow.errors import InputError, StoreError
from dnnflow.events import Command
from dnnflow.results.store.run_record import Driver, RunKind, RunState, brought_up

SCHEMA_VERSION = 6
"""Raised with every change of the tables below; 3 made `runs` of `studies`, 4 compares designs on validation
rows where 3 knew test rows only, 5 has scores where 4 had accuracies, and trains finalists again, 6 has notes
and tags."""

metadata = sa.MetaData()


class JsonText(sa.types.TypeDecorator[Any]):
    """JSON types in a column of text; NaN is refused, since databases read it differently."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        """Return the text; None stays NULL."""
        try:
            return None if value is None else json.dumps(value, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"a run's pipeline and dataset are JSON types, got: {error}") from error

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        """Return the JSON types."""
        return None if value is None else json.loads(value)


def _enum(kind: type[StrEnum], length: int = 16) -> sa.Enum:
    return sa.Enum(kind, native_enum=False, length=length, values_callable=lambda one: [x.value for x in one])


schema_versions = sa.Table("dnnflow_schema", metadata, sa.Column("version", sa.Integer, primary_key=True))

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("kind", _enum(RunKind), nullable=False, server_default="study"),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("note", sa.Text),
    sa.Column("tags", JsonText),
    sa.Column("state", _enum(RunState), nullable=False),
    sa.Column("command", _enum(Command, 8), nullable=False, server_default="run"),
    sa.Column("acknowledged", _enum(Command, 8), nullable=False, server_default="run"),
    sa.Column("driver", sa.Text),
    sa.Column("heartbeat_s", sa.Double),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("started_at", sa.String(40)),
    sa.Column("ended_at", sa.String(40)),
    sa.Column("updated_at", sa.String(40), nullable=False),
    sa.Column("queue", sa.String(64)),
    sa.Column("queued_s", sa.Double),
    sa.Column("deaths", sa.Integer, nullable=False, server_default="0"),
    sa.Column("idempotency_key", sa.String(64)),
    sa.Column("digest", sa.String(64)),
    sa.Column("key", sa.String(64), index=True),
    sa.Column("dataset_id", sa.String(64)),
    sa.Column("dataset_path", sa.Text),
    sa.Column("n_designs", sa.BigInteger),
    sa.Column("stage", sa.Text),
    sa.Column("progress", JsonText),
    sa.Column("dashboard", sa.Text),
    sa.Column("run_url", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("outcome", JsonText),
    sa.Column("request", JsonText),
    sa.Column("pipeline", JsonText, nullable=False),
    sa.Column("dataset", JsonText),
    sa.Index("runs_idempotency", "queue", "idempotency_key", unique=True),
)
"""`request` is the pipeline with its credentials, for the driver; it goes when the run is finished."""

STUDY = ("key", "dataset_id", "dataset_path", "n_designs", "dataset")
"""Columns that a run has not got before its table is preprocessed; `studies` had them always."""

queues = sa.Table(
    "queues",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("driver", sa.Text),
    sa.Column("heartbeat_s", sa.Double),
)
"""Which supervisor works off a queue."""

study_designs = sa.Table(
    "study_designs",
    metadata,
    sa.Column("study_id", sa.String(64), sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("designs", sa.LargeBinary, nullable=False),
)

MEASURES = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "r2", "rmse", "mae")
"""Metrics of trials beside the study's own, on the same rows; NULL until the screen has ended, where the
metric is for another task, and where predictions were not kept."""

# Long texts stand last: SQLite then reads the short columns without visiting the pages they overflow to.
trials = sa.Table(
    "trials",
    metadata,
    sa.Column("study_id", sa.String(64), sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("design_id", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("engine", sa.Text, nullable=False),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("device", sa.String(8), nullable=False),
    sa.Column("started_at", sa.String(40), nullable=False),
    sa.Column("queue_s", sa.Double, nullable=False),
    sa.Column("training_s", sa.Double, nullable=False),
    sa.Column("total_s", sa.Double, nullable=False),
    sa.Column("amortised", sa.Boolean, nullable=False),
    sa.Column("parameters", sa.BigInteger),
    sa.Column("flops", sa.BigInteger),
    sa.Column("epochs_run", sa.Integer, nullable=False),
    sa.Column("score", sa.Double),
    sa.Column("loss", sa.Double),
    sa.Column("train_score", sa.Double),
    sa.Column("train_loss", sa.Double),
    sa.Column("validation_score", sa.Double),
    sa.Column("validation_loss", sa.Double),
    *(sa.Column(name, sa.Double) for name in MEASURES),
    sa.Column("depth", sa.Integer),
    sa.Column("units", sa.BigInteger),
    sa.Column("units_min", sa.BigInteger),
    sa.Column("units_max", sa.BigInteger),
    sa.Column("activation", sa.Text),
    sa.Column("dropout", sa.Double),
    sa.Column("batch_norm", sa.Boolean),
    sa.Column("initializer", sa.Text),
    sa.Column("l2", sa.Double),
    sa.Column("residual", sa.BigInteger, nullable=False),
    sa.Column("optimizer", sa.Text, nullable=False),
    sa.Column("learning_rate", sa.Double, nullable=False),
    sa.Column("schedule", sa.Text, nullable=False),
    sa.Column("batch_size", sa.BigInteger, nullable=False),
    sa.Column("epochs", sa.BigInteger, nullable=False),
    sa.Column("early_stopping", sa.BigInteger),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("reference", sa.Text),
    sa.Column("error_type", sa.Text),
    sa.Column("error_message", sa.Text),
    sa.Column("more_parameters", sa.Text, nullable=False),
    sa.Column("design", sa.Text, nullable=False),
    sa.Column("confusion", sa.Text, nullable=False),
    sa.Column("error_traceback", sa.Text),
    sa.Column("history", sa.Text, nullable=False),
)

overview = sa.Index(
    "trials_overview",
    trials.c.study_id,
    trials.c.state,
    trials.c.depth,
    trials.c.score,
    trials.c.training_s,
    trials.c.started_at,
)
"""Holds all that `results.overview` counts: 50,000 trials take 0.12 s of a processor, 0.75 s without it."""


final_trials = sa.Table(
    "final_trials",
    metadata,
    sa.Column("study_id", sa.String(64), sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("design_id", sa.String(64), primary_key=True),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("finalist", sa.String(64), nullable=False),
    sa.Column("fold", sa.Integer, nullable=False),
    sa.Column("repeat", sa.Integer, nullable=False),
    sa.Column("design", JsonText, nullable=False),
    sa.Column("trial", JsonText, nullable=False),
)
"""Trainings after the screen: of `finalist`, a design of the study, with a seed of its own (`design`)."""


def clock(dialect: str) -> sa.ColumnElement[float]:
    """Return the database's time, in seconds since 1970."""
    if dialect == "postgresql":
        return sa.extract("epoch", sa.func.clock_timestamp()).cast(sa.Double)
    return sa.literal_column("(julianday('now') - 2440587.5) * 86400.0", sa.Double)


def prepare_schema(connection: sa.Connection) -> None:
    """Create the tables in an empty database, bring those of older versions up, refuse all others.

    Raises
    ------
    StoreError
        If the tables are of another version, or a process of an older version uses them now.
    """
    found = _version(connection)
    if found is None or 0 < found < SCHEMA_VERSION:
        if connection.dialect.name == "postgresql":  # two processes may open a database at once
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(3660117)"))
            found = _version(connection)
        if found is None:
            metadata.create_all(connection)
            connection.execute(schema_versions.insert().values(version=SCHEMA_VERSION))
        elif found < SCHEMA_VERSION:
            _migrate(connection, found)
    elif found != SCHEMA_VERSION:
        remedy = "update dnnflow" if found > SCHEMA_VERSION else "set DNNFLOW_STORE to a new store"
        raise StoreError(f"this dnnflow reads stores of version {SCHEMA_VERSION}, "
                         f"got one of version {found}; {remedy}")  # fmt: skip


def _version(connection: sa.Connection) -> int | None:
    if not sa.inspect(connection).has_table(schema_versions.name):
        return None
    return connection.execute(sa.select(sa.func.max(schema_versions.c.version))).scalar()


def _migrate(connection: sa.Connection, version: int) -> None:
    """Bring an older store up: rows stay where they are, and so do the trials, which may be gigabytes."""
    for name, key in (("studies", "study_id"),) if version < 3 else (("runs", "run_id"), ("queues", "name")):
        _refuse_while_driven(connection, name, key)
    if version < 5:
        _make_scores(connection, version)
    if version >= 3:  # `_make_runs` adds all that is new
        for column in (runs.c.note, runs.c.tags):
            _add(connection, column)
    connection.execute(schema_versions.update().values(version=SCHEMA_VERSION))


def _make_scores(connection: sa.Connection, version: int) -> None:
    """Make scores of accuracies, and room for finalists."""
    before = "test_accuracy" if version < 4 else "accuracy"
    renamed = {before: "score", "train_accuracy": "train_score", "validation_accuracy": "validation_score"}
    for old, new in (renamed | ({"test_loss": "loss"} if version < 4 else {})).items():
        connection.execute(sa.text(f"ALTER TABLE trials RENAME COLUMN {old} TO {new}"))
    if version < 3:
        _make_runs(connection, version)
    for name in MEASURES:
        _add(connection, trials.c[name])
    final_trials.create(connection)
    if version < 4:
        _say_what_was_selected_on(connection)


def _make_runs(connection: sa.Connection, version: int) -> None:
    """Make `runs` of `studies`."""
    for statement in (
        "DROP INDEX ix_studies_key",
        "ALTER TABLE studies RENAME TO runs",
        "ALTER TABLE runs RENAME COLUMN study_id TO run_id",
        *(("ALTER TABLE runs RENAME COLUMN wanted TO command",
           "ALTER TABLE runs RENAME COLUMN obeyed TO acknowledged") if version == 2 else ()),
    ):  # fmt: skip
        connection.execute(sa.text(statement))
    known = {column["name"] for column in sa.inspect(connection).get_columns(runs.name)}
    for column in runs.columns:
        if column.name not in known:
            _add(connection, column)
        elif column.name in STUDY:
            _make_optional(connection, column)
    for index in runs.indexes:
        index.create(connection)
    overview.create(connection, checkfirst=True)
    queues.create(connection)


def _say_what_was_selected_on(connection: sa.Connection) -> None:
    """Write into pipelines what went without saying: designs were compared on test rows."""
    for run_id, is_begun, pipeline, request in connection.execute(
        sa.select(runs.c.run_id, runs.c.key.is_not(None), runs.c.pipeline, runs.c.request)
    ).all():  # fmt: skip
        values = {name: brought_up(plain, is_begun=bool(is_begun)) for name, plain in
                  (("pipeline", pipeline), ("request", request)) if plain is not None}  # fmt: skip
        connection.execute(runs.update().where(runs.c.run_id == run_id).values(values))


def _refuse_while_driven(connection: sa.Connection, name: str, key: str) -> None:
    silent_s = sa.func.coalesce(clock(connection.dialect.name) - sa.column("heartbeat_s"), 0.0)
    table = sa.table(name, sa.column(key), sa.column("driver"), sa.column("heartbeat_s"))
    query = sa.select(table.c[key], table.c.driver, silent_s).where(table.c.driver.is_not(None))
    for study_id, text, seconds in connection.execute(query):
        driver = Driver.parse(text)
        if driver.is_alive(float(seconds)):
            raise StoreError(
                f"an older store is brought up while nobody trains, got {study_id} driven by process "
                f"{driver.pid} on {driver.host}, which is of an older dnnflow; wait for it or stop it"
            )


def _add(connection: sa.Connection, column: "sa.Column[Any]") -> None:
    definition = sa.schema.CreateColumn(column).compile(connection)
    connection.execute(sa.text(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}"))


def _make_optional(connection: sa.Connection, column: "sa.Column[Any]") -> None:
    name = connection.dialect.identifier_preparer.quote(column.name)
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"ALTER TABLE runs ALTER COLUMN {name} DROP NOT NULL"))
        return
    # SQLite cannot take NOT NULL away: another column takes the values and the name
    kind = column.type.compile(connection.dialect)
    for statement in (
        f"ALTER TABLE runs ADD COLUMN migrated {kind}",
        f"UPDATE runs SET migrated = {name}",
        f"ALTER TABLE runs DROP COLUMN {name}",
        f"ALTER TABLE runs RENAME COLUMN migrated TO {name}",
    ):
        connection.execute(sa.text(statement))
