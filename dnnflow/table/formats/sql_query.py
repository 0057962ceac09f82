"""Read what a query finds in a database, in blocks: it is asked once, and kept on disk while it is used."""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from dnnflow.errors import DataError
from dnnflow.table.columns.kinds import nearest
from dnnflow.table.formats.spooled import PIECE_ROWS, SpooledTable, table_of

_PARAMETER = re.compile(r"(?<![:\w\\]):(?=\w)")
_CELLS = 1 << 21
"""Values that are fetched at a time, at most."""
_READING = {
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_TRANSACTION,
}  # fmt: skip
_PRAGMAS = (
    "table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list",
    "read_uncommitted",
)  # fmt: skip
"""Those that describe tables, and one that SQLAlchemy asks."""


def is_database(url: str) -> bool:
    """Say whether an address is one of a database: SQLAlchemy knows its dialect."""
    scheme, found, _ = url.partition("://")
    return bool(found) and scheme.partition("+")[0] in (
        "sqlite", "postgresql", "postgres", "mysql", "mariadb", "oracle", "mssql", "duckdb", "snowflake",
        "bigquery", "redshift", "trino", "clickhouse", "cockroachdb",
    )  # fmt: skip


def open_query(url: str, query: str | None, place: Path) -> SpooledTable:
    """Open what a query finds, or a table by its name; without either the only table of the database.

    Raises
    ------
    DataError
        If the database cannot be reached, or the query is refused.
    """
    import sqlalchemy as sa

    try:
        address = sa.engine.make_url(url)
        if address.drivername in ("postgres", "postgresql"):
            address = address.set(drivername="postgresql+psycopg")
        engine = sa.create_engine(address)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"a database's address must be one of SQLAlchemy, but {reason}; correct it, or install its driver"
        ) from None
    file = engine.url.database if engine.dialect.name == "sqlite" else None
    if file and file != ":memory:" and not file.startswith("file:") and not Path(file).is_file():
        raise DataError(
            f"a database must exist, but there is no file {file}; check the path"
        )  # else it is made
    if file and Path(file).is_file():
        engine = sa.create_engine("sqlite://", creator=partial(open_sqlite, file), poolclass=sa.NullPool)
    try:
        return SpooledTable(_rows(engine, query), place)
    except (sa.exc.SQLAlchemyError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        if "authoriz" in reason:
            reason = f"a query reads tables of its database and does nothing else ({reason})"
        shown = sa.engine.make_url(url).render_as_string()
        raise DataError(f"cannot read {shown}: {reason}; check the address and query") from None
    finally:
        engine.dispose()


def open_sqlite(file: str | Path) -> sqlite3.Connection:
    """Open an SQLite file for queries that read its tables: they reach no other file, and change nothing."""
    connection = sqlite3.connect(
        f"file:{quote(str(file))}?mode=ro", uri=True, check_same_thread=False, isolation_level=None
    )
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.set_authorizer(_allowed)
    return connection


def _allowed(action: int, first: str | None, second: str | None, *place: str | None) -> int:
    """Say whether SQLite may do what a statement asks for."""
    if action == sqlite3.SQLITE_FUNCTION:
        is_right = second != "load_extension"
    elif action == sqlite3.SQLITE_PRAGMA:
        is_right = first in _PRAGMAS
    else:
        is_right = action in _READING
    return sqlite3.SQLITE_OK if is_right else sqlite3.SQLITE_DENY


def _rows(engine: Any, query: str | None) -> Iterator[pa.Table]:
    import sqlalchemy as sa

    declared: frozenset[str] = frozenset()
    with engine.connect() as connection:
        streamed = connection.execution_options(stream_results=True)
        if query is not None and len(query.split()) > 1:
            found = streamed.execute(sa.text(_PARAMETER.sub(r"\\:", query)))  # a % is none of a parameter
        else:
            chosen = _table(connection, query)
            if engine.dialect.name == "sqlite":
                chosen, declared = _stored(chosen)
            found = streamed.execute(chosen)
        names = [str(name) for name in found.keys()]  # noqa: SIM118
        truths = [place for place, name in enumerate(names) if name in declared]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise DataError(f"column names must differ, got {twice!r} twice; name one otherwise in the query")
        for rows in found.partitions(max(1, min(PIECE_ROWS, _CELLS // max(1, len(names))))):
            yield table_of(names, _with_truths(rows, truths))


def _stored(chosen: Any) -> tuple[Any, frozenset[str]]:
    """Return a query of an SQLite table that gives what is stored, and which columns are called boolean.

    There a column's type forbids nothing: of a number in a DATE SQLAlchemy makes an error, of the text no in
    a BOOLEAN a true.
    """
    import sqlalchemy as sa

    columns = [*chosen.selected_columns]
    declared = frozenset(str(one.name) for one in columns if isinstance(one.type, sa.Boolean))
    raw = [sa.type_coerce(one, sa.types.NullType()).label(one.name) for one in columns]
    return sa.select(*raw), declared


def _with_truths(rows: Sequence[Any], places: Sequence[int]) -> Sequence[Any]:
    """Return rows with truth values for 0 and 1 in columns that hold nothing else."""
    whole = [place for place in places if all(row[place] in (None, 0, 1) for row in rows)]
    if not whole:
        return rows
    changed = [list(row) for row in rows]
    for row in changed:
        for place in whole:
            row[place] = None if row[place] is None else bool(row[place])
    return changed


def _table(connection: Any, query: str | None) -> Any:
    """Return what selects a table by its name, or the only one."""
    import sqlalchemy as sa

    known: Any = sa.inspect(connection)
    names = [*known.get_table_names(), *known.get_view_names()]
    if query is None:
        if len(names) != 1:
            raise DataError(
                f"a database of {len(names)} tables needs a query, got none; set query to a SELECT or one of "
                f"{', '.join(names[:20])}"
            )
        query = names[0]
    if query not in names:
        raise DataError(
            f"query must be a SELECT or the name of a table, got {query!r}; {nearest(query, names)}"
        )
    return sa.select(sa.Table(query, sa.MetaData(), autoload_with=connection))
