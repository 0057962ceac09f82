"""Files and directories appear whole or not at all."""

from pathlib import Path

import pytest

from dnnflow.paths import directory_aside, write_file


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
