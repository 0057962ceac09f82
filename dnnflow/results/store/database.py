"""Open a SQLite file or a PostgreSQL database, and read and write it in transactions."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
    TimeoutError,
)

from dnnflow.errors import DnnflowError, InputError, OutputError, StoreAwayError, StoreError
from dnnflow.paths import FULL
from dnnflow.results.store.schema import clock, prepare_schema

Result = TypeVar("Result")

BUSY_TIMEOUT_S = 30.0
"""How long a statement waits for another process's write to a SQLite file."""
SHRINK_TIMEOUT_S = 1.0
"""The same for giving disk back, which can as well be done later."""


WAIT_S = 600.0
"""How long a run waits for a store that is away."""
LOOK_S = 1.0
"""How often it looks whether it is back."""

_tell: ContextVar[Callable[[str], None] | None] = ContextVar("_tell", default=None)


@contextmanager
def patient(tell: Callable[[str], None] | None) -> Iterator[None]:
    """Let this thread wait for stores that are away, for the block; None lets it not wait.

    Parameters
    ----------
    tell
        Told why it waits, and when it goes on.
    """
    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)


def waited(call: Callable[[], Result]) -> Result:
    """Call what writes, again and again while store or disk take nothing, if this thread is `patient`.

    Raises
    ------
    StoreAwayError, OutputError
        If they take nothing for `WAIT_S`.
    """
    tell, began_s, is_told = _tell.get(), time.monotonic(), False
    while True:
        try:
            found = call()
        except (StoreAwayError, OSError) as error:
            is_away = isinstance(error, StoreAwayError | OutputError) or error.errno in FULL
            if tell is None or not is_away or time.monotonic() - began_s > WAIT_S:
                raise
            if not is_told:
                tell(f"waits, with what is finished kept in memory, and goes on by itself: {error}")
                is_told = True
            time.sleep(LOOK_S)
        else:
            if is_told and tell is not None:
                tell(f"goes on after {time.monotonic() - began_s:.0f} s")
            return found


class Database:
    """A database with the tables of `schema`; safe for threads and processes.

    Parameters
    ----------
    url : str
        `sqlite:///FILE` or `postgresql://USER@HOST/NAME`. Tables are made on first use.

    Raises
    ------
    StoreError
        From every method, when the database cannot be reached, read or written.
    """

    def __init__(self, url: str) -> None:
        self._url = store_url(url)
        self._engine = open_engine(self._url)
        dialect = self._engine.dialect.name
        self._insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
        self._clock = clock(dialect)
        try:
            with self._write() as connection:
                prepare_schema(connection)
        except BaseException:
            self._engine.dispose()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The store's URL without a password."""
        return self._url.render_as_string(hide_password=True)

    def shrink(self) -> None:
        """Give the disk back what deleted rows took of a SQLite file; a PostgreSQL server does so by itself.

        Where others use the file at this moment, what is deleted is given back the next time.
        """
        if self._engine.dialect.name != "sqlite":
            return
        with self._guard(), closing(self._engine.raw_connection()) as connection:
            cursor: Any = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout = {round(1000 * SHRINK_TIMEOUT_S)}")
            try:
                (mode,) = cursor.execute("PRAGMA auto_vacuum").fetchone()
                with suppress(sqlite3.OperationalError):  # it is busy
                    # As a script: `execute` stops after the first page that is free
                    cursor.executescript("PRAGMA incremental_vacuum" if mode else "VACUUM")
                    cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                cursor.execute(f"PRAGMA busy_timeout = {round(1000 * BUSY_TIMEOUT_S)}")

    def close(self) -> None:
        """Close all connections; the store may be used again and then opens new ones."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Yield a connection for queries of modules beside this one."""
        with self._guard(), ExitStack() as stack:
            yield waited(lambda: self._entered(stack, self._engine.connect()))

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        engine = self._engine.execution_options(writes=True)
        with self._guard(), ExitStack() as stack:
            yield waited(lambda: self._entered(stack, engine.begin()))

    def _entered(self, stack: ExitStack, opened: AbstractContextManager[sa.Connection]) -> sa.Connection:
        with self._guard():
            return stack.enter_context(opened)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            original = getattr(error, "orig", None)
            if isinstance(original, DnnflowError):  # of a column's type
                raise original from error
            cause = " ".join(str(original or error).split())
            is_away = isinstance(error, OperationalError | InterfaceError | TimeoutError)
            kind = StoreAwayError if is_away else StoreError
            raise kind(f"the store {self.url} must be readable and writable, got: {cause}; "
                       "check DNNFLOW_STORE") from error  # fmt: skip


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
    # Counts for a new file; one of an older version becomes so when it is vacuumed
    cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
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
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not is_busy or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that reads first and writes later would be refused at once, without the busy timeout,
    # if somebody wrote meanwhile: writers take the lock at the start.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
