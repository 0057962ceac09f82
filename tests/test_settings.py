"""One home for each user, unless something names another."""

from pathlib import Path

import pytest

from dnnflow.errors import InputError
from dnnflow.settings import Settings


def home(environment: dict[str, str]) -> Path:
    return Settings.from_environment(environment).workspace.home


def test_studies_are_kept_in_one_home_whatever_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert home({}) == tmp_path / ".local" / "share" / "dnnflow"
        assert home({"XDG_DATA_HOME": str(tmp_path / "data")}) == tmp_path / "data" / "dnnflow"
        assert home({"XDG_DATA_HOME": "relative"}) == tmp_path / ".local" / "share" / "dnnflow"
        assert home({"DNNFLOW_HOME": "mine", "XDG_DATA_HOME": str(tmp_path)}) == Path("mine")
        assert not Settings.from_environment({}).is_local


def test_a_home_of_the_directory_is_still_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dnnflow-home").mkdir()
    monkeypatch.chdir(tmp_path)
    assert home({}) == Path("dnnflow-home")
    assert Settings.from_environment({}).is_local
    assert home({"DNNFLOW_HOME": str(tmp_path / "other")}) == tmp_path / "other"


def test_a_user_without_a_home_is_told_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(InputError, match=r"got a user without one: .*; set DNNFLOW_HOME"):
        home({})
