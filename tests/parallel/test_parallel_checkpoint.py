"""Checkpoints of a parallel training: whole or not at all, and the one before is kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnnflow.errors import DataError, NotFoundError
from dnnflow.parallel.driver.actors import TrainingState
from dnnflow.parallel.driver.checkpoint import BEFORE, FILE, read_checkpoint, write_checkpoint


def state(number: int) -> TrainingState:
    weights = np.full(1000, number, np.float32)
    return TrainingState([{"weights": weights, "version": number}], {"leases": {"done": [number]}})


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = {
    "cut off": truncate,
    "a byte changed": flip,
    "empty": empty,
    "no archive": lambda path: path.write_text("?"),
}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_checkpoint(str(tmp_path), state(number))
        found = read_checkpoint(str(tmp_path))
        assert found.version == number
        assert np.array_equal(found.servers[0]["weights"], np.full(1000, number, np.float32))
        assert found.coordinator == {"leases": {"done": [number]}}
    assert {path.name for path in tmp_path.iterdir()} == {FILE, BEFORE}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_the_one_before_stands_in_for_a_damaged_one_and_it_is_told(tmp_path: Path, damage: Any) -> None:
    for number in (1, 2):
        write_checkpoint(str(tmp_path), state(number))
    damage(tmp_path / FILE)
    told: list[Any] = []
    assert read_checkpoint(str(tmp_path), told.append).version == 1
    (notice,) = told
    assert "the checkpoint is damaged" in notice.message
    assert BEFORE in notice.message
    damage(tmp_path / BEFORE)
    with pytest.raises(DataError, match=r"must be whole, got .*remove it to start anew"):
        read_checkpoint(str(tmp_path))


def test_a_writer_that_died_between_two_files_leaves_the_one_before(tmp_path: Path) -> None:
    write_checkpoint(str(tmp_path), state(1))
    (tmp_path / FILE).rename(tmp_path / BEFORE)
    assert read_checkpoint(str(tmp_path)).version == 1
    (tmp_path / BEFORE).unlink()
    with pytest.raises(NotFoundError, match="start without restore"):
        read_checkpoint(str(tmp_path))
