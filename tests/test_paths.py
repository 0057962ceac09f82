"""Files and directories appear whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from dnnflow.errors import OutputError
from dnnflow.paths import (
    Workspace,
    directory_aside,
    file_aside,
    try_directory,
    try_file,
    write_file,
)


def test_a_directory_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with directory_aside(target) as aside:
        (aside / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), directory_aside(tmp_path / "made") as aside:
        (aside / "no such directory" / "a").write_text("1")
    assert list(tmp_path.iterdir()) == []


def test_who_comes_second_keeps_what_the_first_has_made(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with directory_aside(target) as second:
        (second / "a").write_text("second")
        with directory_aside(target) as first:
            (first / "a").write_text("first")
    assert (target / "a").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_what_stops_the_renaming_is_told(tmp_path: Path) -> None:
    """A file in the way, or a directory that may not be written, must not be taken for success."""
    (tmp_path / "made").write_text("in the way")
    with pytest.raises(NotADirectoryError), directory_aside(tmp_path / "made"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "file"
    write_file(file, "old")
    write_file(file, b"new")
    assert file.read_text() == "new"
    assert list(file.parent.iterdir()) == [file]


# Places are tried before anything is computed


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("directory.keras", "got the directory .*; name a file in it"),
        ("file/x.keras", "file is no directory; make it writable, or name another place"),
        ("file/a/b/x.keras", "file is no directory"),
        ("dangling/x.keras", "dangling is no directory"),
        ("x" * 240 + ".keras", "File name too long"),
    ],
)
def test_a_place_that_takes_no_file_is_told_beforehand_and_when_it_is_written(
    place: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "directory.keras").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "else")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=told):
        try_file(tmp_path / place)
    with pytest.raises(OutputError, match="needs a place that takes it"):
        write_file(tmp_path / place, "content")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied; make it writable"):
        try_file(tmp_path / "deep" / "x.keras")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_meanwhile_is_told(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", is_full)
    for write in (try_file, lambda path: write_file(path, "content")):
        with pytest.raises(OutputError, match=f"{os.strerror(number)}; free some room"):
            write(tmp_path / "x.keras")
    assert list(tmp_path.iterdir()) == []


def test_room_that_there_is_not_is_told(tmp_path: Path) -> None:
    try_file(tmp_path / "x.keras", room=1)
    with pytest.raises(OutputError, match=r"bytes are free and .* needed; free some room"):
        try_file(tmp_path / "x.keras", room=1 << 60)


def test_what_is_wrong_with_the_content_is_not_the_places_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="rows"), file_aside(tmp_path / "x.csv"):
        (tmp_path / "rows").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_a_good_place_is_left_as_it_was(tmp_path: Path) -> None:
    kept = tmp_path / "kept.keras"
    kept.write_text("of before")
    try_file(kept)
    try_file(tmp_path / "deep" / "new.keras")
    try_directory(tmp_path / "deep")
    assert list(tmp_path.iterdir()) == [kept]
    assert kept.read_text() == "of before"


def test_a_home_that_takes_nothing_is_told_with_its_variable(tmp_path: Path) -> None:
    Workspace(tmp_path / "home").require_writable()
    (tmp_path / "home").write_text("a file")
    with pytest.raises(OutputError, match="or set DNNFLOW_HOME"):
        Workspace(tmp_path / "home").require_writable()
