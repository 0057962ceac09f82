"""What a user reads when a results store cannot be opened: one line, the remedy, never a password."""

from pathlib import Path

import pytest

from dnnflow.errors import InputError, StoreError
from dnnflow.results.store.store import Store


@pytest.mark.parametrize(
    "url",
    ["mysql://u:secret@host/db", "sqlite://", "sqlite:///:memory:", "no url", "oracle+x://u:secret@h/d"],
)
def test_only_files_and_postgresql_are_stores(url: str) -> None:
    with pytest.raises(InputError, match="give sqlite:///FILE or postgresql://USER@HOST/NAME") as caught:
        Store(url)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    path.write_bytes(b"label,a,b\n" * 1000)
    with pytest.raises(
        StoreError, match=r"results.db must be readable and writable, got: file is not a database"
    ):
        Store(f"sqlite:///{path}")
    assert path.read_bytes().startswith(b"label")


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"directory must be writable, got: .*; set DNNFLOW_HOME"):
        Store(f"sqlite:///{tmp_path}/file/results.db")


def test_a_server_that_does_not_answer() -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    with pytest.raises(StoreError, match="check DNNFLOW_STORE") as caught:
        Store("postgresql://user:secret@127.0.0.1:1/db")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
