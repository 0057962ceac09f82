"""Tables of the results store, and opening a database that has them."""

import sqlite3
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from dnnflow.errors import InputError, StoreError

SCHEMA_VERSION = 2
"""Raised with every change of the tables below."""

BUSY_TIMEOUT_S = 30.0
"""How long a statement waits for another process's write to a SQLite file."""

PREVIOUS_VERSION = 1
"""What this version makes of a store in place: it adds `wanted` and `obeyed` to `studies`, and an index."""

metadata = sa.MetaData()

schema_versions = sa.Table("dnnflow_schema", metadata, sa.Column("version", sa.Integer, primary_key=True))

studies = sa.Table(
    "studies",
    metadata,
    sa.Column("study_id", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(64), nullable=False, index=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("updated_at", sa.String(40), nullable=False),
    sa.Column("dataset_id", sa.String(64), nullable=False),
    sa.Column("dataset_path", sa.Text, nullable=False),
    sa.Column("n_designs", sa.BigInteger, nullable=False),
    sa.Column("pipeline", sa.Text, nullable=False),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("dashboard", sa.Text),
    sa.Column("driver", sa.Text),
    sa.Column("heartbeat_s", sa.Double),
    sa.Column("wanted", sa.String(8), nullable=False, server_default="run"),
    sa.Column("obeyed", sa.String(8), nullable=False, server_default="run"),
)

study_designs = sa.Table(
    "study_designs",
    metadata,
    sa.Column("study_id", sa.String(64), sa.ForeignKey("studies.study_id"), primary_key=True),
    sa.Column("designs", sa.LargeBinary, nullable=False),
)

# Long texts stand last: SQLite then reads the short columns without visiting the pages they overflow to.
trials = sa.Table(
    "trials",
    metadata,
    sa.Column("study_id", sa.String(64), sa.ForeignKey("studies.study_id"), primary_key=True),
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
    sa.Column("test_accuracy", sa.Double),
    sa.Column("test_loss", sa.Double),
    sa.Column("train_accuracy", sa.Double),
    sa.Column("train_loss", sa.Double),
    sa.Column("validation_accuracy", sa.Double),
    sa.Column("validation_loss", sa.Double),
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
    trials.c.test_accuracy,
    trials.c.training_s,
    trials.c.started_at,
)
"""Holds all that `results.overview` counts: 50,000 trials take 0.12 s of a processor, 0.75 s without it."""


def store_url(url: str) -> URL:
    """Read the URL of a store, and name the driver for PostgreSQL.

    Raises
    ------
    InputError
        If it is neither a SQLite file nor a PostgreSQL database.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InputError("a store's URL cannot be read; "
                         "give sqlite:///FILE or postgresql://USER@HOST/NAME") from error  # fmt: skip
    kind = parsed.drivername.partition("+")[0]
    if kind in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if kind != "sqlite" or parsed.database in (None, "", ":memory:"):
        shown = parsed.render_as_string(hide_password=True)
        raise InputError(f"a store is a SQLite file or a PostgreSQL database, got {shown}; "
                         "give sqlite:///FILE or postgresql://USER@HOST/NAME")  # fmt: skip
    return parsed


def open_engine(url: URL) -> sa.Engine:
    """Return an engine for `url`; a SQLite file gets its directory, WAL and a busy timeout."""
    try:
        if url.get_backend_name() != "sqlite":
            return sa.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    except (ImportError, NoSuchModuleError) as error:
        raise StoreError(f"a PostgreSQL store needs psycopg, got: {error}; "
                         "run pip install 'dnnflow[postgres]'") from error  # fmt: skip
    except OSError as error:
        raise StoreError(f"the store's directory must be writable, got: {error}; set DNNFLOW_HOME") from error
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None  # sqlite3 begins no transaction of its own: `_begin_sqlite` does
    cursor = connection.cursor()
    _switch_to_wal(cursor)
    # NORMAL: a killed process loses nothing; a power cut may lose the last commits, never the file.
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _switch_to_wal(cursor: sqlite3.Cursor) -> None:
    """Switch a file to WAL; SQLite refuses at once, and does not wait, while others open a new file."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that reads first and writes later would be refused at once, without the busy timeout,
    # if somebody wrote meanwhile: writers take the lock at the start.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def prepare_schema(connection: sa.Connection) -> None:
    """Create the tables in an empty database, bring those of the version before up, refuse all others.

    Raises
    ------
    StoreError
        If the tables are of another version.
    """
    found = _version(connection)
    if found in (None, PREVIOUS_VERSION):
        if connection.dialect.name == "postgresql":  # two processes may open a database at once
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(3660117)"))
            found = _version(connection)
        if found is None:
            metadata.create_all(connection)
            connection.execute(schema_versions.insert().values(version=SCHEMA_VERSION))
        elif found == PREVIOUS_VERSION:
            _migrate(connection)
    elif found != SCHEMA_VERSION:
        remedy = "update dnnflow" if found > SCHEMA_VERSION else "set DNNFLOW_STORE to a new store"
        raise StoreError(f"this dnnflow reads stores of version {SCHEMA_VERSION}, "
                         f"got one of version {found}; {remedy}")  # fmt: skip


def _version(connection: sa.Connection) -> int | None:
    if not sa.inspect(connection).has_table(schema_versions.name):
        return None
    return connection.execute(sa.select(sa.func.max(schema_versions.c.version))).scalar()


def _migrate(connection: sa.Connection) -> None:
    """Add what the version before lacks; a process of that version that is at work goes on undisturbed."""
    for column in (studies.c.wanted, studies.c.obeyed):
        definition = sa.schema.CreateColumn(column).compile(connection)
        connection.execute(sa.text(f"ALTER TABLE {studies.name} ADD COLUMN {definition}"))
    overview.create(connection, checkfirst=True)
    connection.execute(schema_versions.update().values(version=SCHEMA_VERSION))
