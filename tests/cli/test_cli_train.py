"""`dnnflow train`: from files to a trained model, with errors before the hours of training and not after."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from dnnflow.cli import main as cli
from dnnflow.errors import InputError
from dnnflow.events import ReplicaLost, TrainingProgress
from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec
from dnnflow.results.store.store import Store
from dnnflow.settings import Settings
from dnnflow.show.terminal import Progress
from dnnflow.show.wording import in_words, staleness_in_words
from tests.conftest import PIPELINES

LEARN = ["--loss", "sparse_categorical_crossentropy", "--metric", "accuracy", "--optimizer", "adam:0.01"]
BUILDER = """
import keras


def network():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three HDF5 files of 200 rows, a list of two of them, and a model as JSON."""
    import h5py
    import keras

    place = tmp_path_factory.mktemp("train")
    generator = np.random.default_rng(3)
    features = generator.normal(size=(600, 6)).astype("float32")
    labels = (features @ generator.normal(size=(6, 3))).argmax(1)
    for number in range(3):
        rows = slice(number * 200, number * 200 + 200)
        with h5py.File(place / f"part{number}.h5", "w") as file:
            file["features"], file["labels"] = features[rows], labels[rows]
    (place / "list.txt").write_text("part0.h5\npart1.h5\n")
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, "softmax")])
    (place / "model.json").write_text(model.to_json())
    (place / "own_network.py").write_text(BUILDER)
    return place


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call `dnnflow train` in this process, in the folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DNNFLOW_HOME", str(folder / "home"))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["dnnflow", "train", *arguments])
        code = cli.guarded(cli.app, debug=False)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def cluster(client) -> list[str]:
    return ["--cluster", client.scheduler.address, "--replicas", "2", "--batch", "20"]


def test_files_become_a_model_a_history_and_a_timeline(call, cluster: list[str], folder: Path) -> None:
    import keras

    code, out, err = call("model.json", "list.txt", "--validation", "part2.h5", *LEARN, *cluster, "--epochs",
                          "4", "--out", "a.keras", "--history", "h.json", "--timeline", "t.json",
                          "--report", "r.html")  # fmt: skip
    assert code == 0, err
    assert "1,600 of 1,600 samples" in err
    for word in ("samples    1,600", "val_accuracy", "staleness", "exchange", "a.keras", "h.json", "t.json",
                 "r.html"):  # fmt: skip
        assert word in out, out
    assert keras.saving.load_model(folder / "a.keras").predict(np.zeros((1, 6)), verbose=0).shape == (1, 3)
    assert "live page http://127.0.0.1:" in err
    assert "1,600" in (folder / "r.html").read_text()
    history = json.loads((folder / "h.json").read_text())
    assert history["history"]["0:0:-"]["val_accuracy"]
    assert history["args"]["epochs"] == 4
    assert {event["name"] for event in json.loads((folder / "t.json").read_text())["traceEvents"]} >= {
        "compute", "exchange",
    }  # fmt: skip


REPLICA_KEYS = frozenset(
    ("samples", "pushes", "compute_s", "exchange_s", "data_s", "resident_bytes", "gpu_bytes", "processor_s",
     "lives")
)  # fmt: skip
"""What scripts read of each replica."""


def test_json_for_a_script_and_an_end_at_the_target(call, cluster: list[str], folder: Path) -> None:
    code, out, err = call("model.json", "list.txt", "--validation", "part2.h5", *LEARN, *cluster, "--json",
                          "--epochs", "2000", "--target", "val_accuracy,>,0.5", "--history",
                          "h.csv")  # fmt: skip
    assert code == 0, err
    assert err == ""
    told = json.loads(out)
    assert told["ended_by"] == "target"
    assert told["samples"] < 2000 * 400
    assert sum(totals["samples"] for totals in told["replicas"].values()) == told["samples"]
    assert {frozenset(totals) for totals in told["replicas"].values()} == {REPLICA_KEYS}
    assert told["files"] == ["trained.keras", "h.csv"]
    assert "val_accuracy" in (folder / "h.csv").read_text().splitlines()[0]


def test_a_checkpoint_goes_on(call, cluster: list[str]) -> None:
    arguments = ["model.json", "list.txt", *LEARN, *cluster, "--checkpoint", "kept", "--json"]
    code, _, err = call(*arguments, "--epochs", "2")
    assert code == 0, err
    code, out, err = call(*arguments, "--epochs", "3", "--restore")
    assert code == 0, err
    assert json.loads(out)["samples"] == 400  # the third epoch alone


def test_a_model_made_by_a_module_of_the_current_directory(call, cluster: list[str]) -> None:
    code, out, err = call("own_network:network", "list.txt", *cluster, "--synchronous", "--json")
    assert code == 0, err
    assert json.loads(out)["samples"] == 400


def test_a_model_of_a_dataset_predicts_raw_rows(call, cluster: list[str], iris, tmp_path: Path) -> None:
    import keras

    from dnnflow.run.models.saved_model import load_model
    from dnnflow.table.text.csv_reader import read_rows

    model = keras.Sequential([keras.Input((iris.n_features,)), keras.layers.Dense(3, "softmax")])
    (tmp_path / "iris.json").write_text(model.to_json())
    code, out, err = call(str(tmp_path / "iris.json"), str(iris.path), *LEARN, *cluster, "--json", "--out",
                          str(tmp_path / "iris.keras"))  # fmt: skip
    assert code == 0, err
    assert "val_accuracy" in json.loads(out)["rows"][-1]  # on the dataset's own test rows
    saved = load_model(tmp_path / "iris.keras")
    table = saved.predict(read_rows(saved.source(str(PIPELINES / "data" / "iris.csv"))))
    assert set(table["prediction"]) <= set(iris.class_names)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["none.json", "list.txt"], 4, "no such file"),
        (["model.json", "none.h5", *LEARN], 3, "none.h5"),
        (["model.json", "list.txt"], 2, "must have a loss"),
        (["model.json", "list.txt", *LEARN, "--out", "a.h5"], 2, "--out must end in .keras, got a.h5"),
        (["model.json", "list.txt", *LEARN, "--history", "a.txt"], 2, "--history must end in .json or .csv"),
        (
            ["model.json", "list.txt", *LEARN, "--algorithm", "hogwild"],
            2,
            "--algorithm must be one of downpour",
        ),
        (["model.json", "list.txt", *LEARN, "--algorithm", "gem"], 2, "leave it out"),
        (["model.json", "list.txt", *LEARN, "--target", "val_accuracy"], 2, "val_accuracy,>,0.97"),
        (["model.json", "list.txt", *LEARN, "--device", "tpu"], 2, "--device must be one of auto, cpu, gpu"),
        (["model.json", "list.txt", *LEARN, "--restore"], 2, "needs the directory of a checkpoint"),
        (["model.json", "list.txt", *LEARN, "--wire", "int4"], 2, "wire must be one of"),
        (["model.json", "list.txt", *LEARN, "--cluster", "10.0.0.5:8786"], 2, "tcp://host:port"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_starts(
    call, arguments: list[str], code: int, words: str
) -> None:
    got, out, err = call(*arguments)
    assert got == code, err
    assert words in err
    assert out == ""
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "name", "rate"),
    [
        ("adam", "adam", 0.001),
        ("sgd:0.5", "sgd", 0.5),
        ("own:Step", "own:Step", 0.001),
        ("own:Step:1e-2", "own:Step", 0.01),
    ],
)
def test_an_optimizer_is_a_name_and_perhaps_a_rate(text: str, name: str, rate: float) -> None:
    read = OptimizerSpec.parse(text)
    assert (read.name, read.learning_rate) == (name, rate)


@pytest.mark.parametrize("text", ["adamm", "adam:-1", "adam:nan"])
def test_an_optimizer_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="must be"):
        OptimizerSpec.parse(text)


def test_staleness_is_one_line_however_long_its_tail() -> None:
    assert staleness_in_words({0: 3, 1: 1}) == "0: 75 %, 1: 25 %"
    long = staleness_in_words(dict.fromkeys(range(100), 1))
    assert long.endswith("6: 1 %, 7 and more: 93 %")


def test_progress_of_thousands_of_events_is_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        for done in range(0, 1001):
            progress(TrainingProgress(done, 1000, 1.0, 10.0, 0.5, {"val_accuracy": 0.75}, 1))
        progress(ReplicaLost(1, "tcp://10.0.0.5:1"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3  # the first, the last, the loss
    assert "1,000 of 1,000 samples, 10/s, 1 replica, loss 0.5000, val_accuracy 0.7500" in lines[1]
    assert in_words(ReplicaLost(1, "tcp://10.0.0.5:1")) in lines[2]


def test_public_names_can_be_imported() -> None:
    import dnnflow

    assert callable(dnnflow.train)
    made = dnnflow.Algorithm(kind="easgd", momentum=0.9)  # type: ignore[arg-type]  # text is taken as well
    assert made.push_kind.value == "weights"


def test_where_nothing_can_be_written_nothing_is_trained(call, folder: Path) -> None:
    (folder / "taken.keras").mkdir(exist_ok=True)
    for options in (
        ["--out", "taken.keras"],
        ["--out", "model.json/trained.keras"],
        ["--out", "trained.keras", "--history", "model.json/history.csv"],
        ["--out", "trained.keras", "--checkpoint", "model.json/checkpoint"],
    ):
        code, out, err = call("model.json", "no-such-rows.h5", *LEARN, *options)
        assert code == 2
        assert options[-1] in err
        assert err.strip().endswith(("name another place", "name a file in it"))
        assert out == ""


def test_what_cannot_be_written_at_the_end_is_kept_in_the_home(
    call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(target).name in ("late.keras", "late.csv") and "home" not in Path(target).parts:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    code, _, err = call(
        "model.json", "part0.h5", *LEARN, "--epochs", "1", "--out", "late.keras", "--history", "late.csv",
        "--report", "late.html",
    )  # fmt: skip
    assert code == 2
    kept = sorted((folder / "home" / "trained").rglob("late.*"))
    assert [path.name for path in kept] == ["late.csv", "late.keras"]
    for path in kept:
        assert f"{path.name}: Device or resource busy" in err
        assert f"what was to be written is kept in {path}" in err
    assert keras.models.load_model(kept[1]).count_params() == 21
    assert (folder / "late.html").is_file()
    with Store(Settings.from_environment().store_url) as store:
        run = store.run(kept[1].parent.name)
    assert run.state.value == "failed"
    assert "what was to be written is kept in" in (run.error or "")
    assert (run.outcome or {})["model"] == str(kept[1])
