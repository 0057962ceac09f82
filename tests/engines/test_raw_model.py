"""Models that take raw rows in plain Keras or ONNX say what dnnflow says."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import pandas as pd
import pytest

from dnnflow.design.layers import ACTIVATIONS
from dnnflow.engines.keras.onnx_graph import onnx_model
from dnnflow.engines.keras.raw_model import coarse_columns, raw_model
from dnnflow.errors import InputError, NotFoundError
from dnnflow.events import Notice
from dnnflow.paths import Workspace
from dnnflow.run.models.model_export import export_model, file_of_model, save_raw_models
from dnnflow.run.models.saved_model import SavedModel, load_model, write_model
from dnnflow.table.columns.preprocess import Preprocessing
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.ingest import ingest

FITTED = {"indicator": True, "clip": True, "missing": "median", "scale": "standard"}


def table(rows: int = 60) -> pd.DataFrame:
    """Numbers with gaps, a marker and hardly any spread; texts with gaps and odd names; a truth value."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({
        "depth": rng.normal(40, 9, rows), "m/s": rng.normal(5e8, 2, rows), "still": 3.5,
        "network": rng.normal(size=rows), "rock": rng.choice(["granite", "Gneis", "grès", "[UNK]"], rows),
        "wet": rng.choice(["yes", "No"], rows),
    })  # fmt: skip
    frame.loc[::6, "network"] = np.nan
    frame.loc[1::6, "network"] = -7.7
    frame.loc[::9, "rock"] = "n/a"
    return frame.assign(kind=np.where(frame["depth"] > 40, "deep", "flat"), load=frame["depth"] * 1000)


def saved(folder: Path, label: str, frame: pd.DataFrame | None = None, **recipe: Any) -> Path:
    """Write a model of the table, or of another one with its columns, with weights of chance."""
    path = folder / "table.csv"
    (table() if frame is None else frame).to_csv(path, index=False)
    dropped = {"kind": "load", "load": "kind"}[label]
    made = Recipe.from_dict({"label": label, "drop": [dropped], "missing_values": ["-7.7"], **recipe})
    dataset = ingest(Source(url=str(path)), made, folder)
    ends = {"kind": "softmax", "load": "linear"}[label]
    inputs = keras.Input((dataset.n_features,), name="features")
    flow = keras.layers.BatchNormalization()(keras.layers.Dense(6, activation="tanh")(inputs))
    network = keras.Model(inputs, keras.layers.Dense(dataset.n_outputs, activation=ends)(flow))
    write_model(folder / "model.keras", network, dataset, {"study_id": "some"})
    return folder / "model.keras"


def raw_columns(rows: pd.DataFrame, texts: tuple[str, ...] = ("rock", "wet")) -> dict[str, np.ndarray]:
    """Return rows as plain Keras takes them."""
    named = {name: rows[name] for name in rows.columns if name not in ("kind", "load")}
    return {name: values.fillna("").to_numpy(object) if name in texts else values.to_numpy(float, copy=True)
            for name, values in named.items()}  # fmt: skip


def expected(model: SavedModel, rows: pd.DataFrame) -> np.ndarray:
    found = model.predict(rows)
    is_class = any(str(name).startswith("probability") for name in found.columns)
    wanted = [name for name in found.columns if str(name).startswith("probability") or not is_class]
    return found[[name for name in wanted if name != "note on row"]].to_numpy(float)


@pytest.mark.parametrize("label", ["kind", "load"])
@pytest.mark.parametrize("recipe", [FITTED, {}], ids=["fitted", "plain"])
def test_plain_keras_and_onnx_take_raw_rows(label: str, recipe: dict[str, Any], tmp_path: Path) -> None:
    file, raw, graph = saved(tmp_path, label, **recipe), tmp_path / "raw.keras", tmp_path / "raw.onnx"
    assert any("predict_on_batch" in note and "m/s" in note for note in export_model(file, raw, raw=True))
    assert export_model(file, graph, raw=True) == ()
    rows = table()
    rows.loc[3, ["rock", "wet"]] = ["basalt", "YES"]  # one that is new, one in another case
    rows.loc[4, "depth"] = 1e9
    want = expected(load_model(file), rows)
    given = raw_columns(rows)
    plain = keras.saving.load_model(raw, compile=False, safe_mode=True)
    np.testing.assert_allclose(plain.predict_on_batch(given), want, rtol=1e-6, atol=1e-6)
    session = onnxruntime.InferenceSession(graph)
    (found,) = session.run(None, {name: values[:, None] for name, values in given.items()})
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(expected(load_model(raw), rows), want, rtol=1e-6)  # dnnflow takes it, too


def test_a_row_that_cannot_be_known_is_no_number(tmp_path: Path) -> None:
    raw = tmp_path / "raw.keras"
    export_model(saved(tmp_path, "kind"), raw, raw=True)
    given = raw_columns(table())
    given["depth"][0] = np.inf
    found = keras.saving.load_model(raw, compile=False).predict_on_batch(given)
    assert np.isnan(found).any(axis=1).tolist() == [True] + [False] * (len(found) - 1)


def test_a_file_says_its_outputs_and_a_network_alone_takes_features(tmp_path: Path) -> None:
    file, graph = saved(tmp_path, "kind"), tmp_path / "network.onnx"
    export_model(file, graph)
    model = load_model(file)
    session = onnxruntime.InferenceSession(graph)
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["outputs"]) == ["deep", "flat"]
    features = model.preprocessing.transform(table())
    (found,) = session.run(None, {session.get_inputs()[0].name: features})
    np.testing.assert_allclose(found, model.model.predict(features, verbose=0), atol=1e-5)
    copy = tmp_path / "copy.keras"
    export_model(file, copy)
    assert copy.read_bytes() == file.read_bytes()
    export_model(file, copy, raw=True)
    about = json.loads(zipfile.ZipFile(copy).read("dnnflow.json"))
    assert (about["raw"], about["class_names"]) == (True, ["deep", "flat"])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_of_a_design_is_in_onnx(activation: str) -> None:
    inputs = keras.Input((4,), name="features")
    flow = keras.layers.Dense(4, activation=activation)(inputs)
    flow = keras.layers.Dropout(0.2)(keras.layers.Add()([flow, inputs]))
    model = keras.Model(inputs, keras.layers.Activation(activation)(flow))
    session = onnxruntime.InferenceSession(onnx_model(model, "out", {}).SerializeToString())
    rows = np.linspace(-4, 4, 40, dtype=np.float32).reshape(10, 4)
    np.testing.assert_allclose(session.run(None, {"features": rows})[0], model(rows), rtol=1e-5, atol=1e-5)


def test_what_is_no_graph_or_no_layer_is_refused(tmp_path: Path) -> None:
    inputs = keras.Input((4,), name="features")
    odd = keras.Model(inputs, keras.layers.UnitNormalization()(inputs))
    with pytest.raises(InputError, match="got UnitNormalization"):
        onnx_model(odd, "out", {})
    file = saved(tmp_path, "kind")
    with pytest.raises(InputError, match=r"written as \.keras or \.onnx, got .*model\.pb"):
        export_model(file, tmp_path / "model.pb")
    with pytest.raises(NotFoundError):
        export_model(tmp_path / "none.keras", tmp_path / "x.keras")


@pytest.mark.parametrize(
    ("of_row", "recipe"),
    [(lambda row: f"2024-01-{row % 28 + 1:02d}", {}), (lambda row: f"0:{row % 50:02d}:07", {}),
     (lambda row: f"town {row}", {"categories": "hash"})],
    ids=["dates", "durations", "hashed"],
)  # fmt: skip
def test_columns_that_layers_cannot_read_are_refused(
    of_row: Callable[[int], str], recipe: dict[str, Any], tmp_path: Path
) -> None:
    made = table(90).assign(other=[of_row(row) for row in range(90)])
    model = load_model(saved(tmp_path, "kind", made, **recipe))
    with pytest.raises(InputError, match="what becomes of a column, got column 'other'"):
        raw_model(model.preprocessing, model.model)


def test_rare_texts_share_a_column(tmp_path: Path) -> None:
    towns = [f"town {row % 70 if row < 280 else row}" for row in range(290)]
    made = table(290).assign(town=towns)
    model = load_model(saved(tmp_path, "kind", made))
    assert any(name.endswith("_other") for name in model.preprocessing.feature_names)
    rows = made.assign(town=[*towns[:-1], "nowhere"])
    found = raw_model(model.preprocessing, model.model).predict_on_batch(
        raw_columns(rows, ("rock", "wet", "town"))
    )
    assert found == pytest.approx(expected(model, rows), abs=1e-6)


def test_a_column_that_layers_encode_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(saved(tmp_path, "kind"))
    usual = Preprocessing.transform

    def half(self: Preprocessing, frame: pd.DataFrame) -> np.ndarray:
        return usual(self, frame) * (0.5 if self.columns[0].name == "depth" else 1.0)

    monkeypatch.setattr(Preprocessing, "transform", half)
    with pytest.raises(InputError, match=r"'depth': .* would become something else"):
        raw_model(model.preprocessing, model.model)


def test_columns_that_single_precision_blurs_are_known(tmp_path: Path) -> None:
    assert coarse_columns(load_model(saved(tmp_path, "kind")).preprocessing) == ["m/s"]


def test_a_model_is_chosen_of_a_study_alone(tmp_path: Path) -> None:
    from dnnflow.api import model_file

    with pytest.raises(InputError, match="chosen of a study, got 'final' of the file"):
        model_file(tmp_path / "x.keras", "final")


def test_each_model_of_a_folder_is_saved_for_raw_rows_once(tmp_path: Path) -> None:
    """One that cannot be is told of, and is nobody's model by its own name."""
    workspace = Workspace(tmp_path)
    folder = workspace.model("some", 1).parent
    folder.mkdir(parents=True)
    (folder / "best-1.keras").write_bytes(saved(tmp_path, "kind").read_bytes())
    hashed = saved(tmp_path, "kind", categories="hash", drop=["load", "wet"],
                   frame=table(400).assign(rock=[f"r{i % 99}" for i in range(400)]))  # fmt: skip
    (folder / "ensemble.keras").write_bytes(hashed.read_bytes())
    told: list[Any] = []
    (raw,) = save_raw_models(folder, told.append)
    assert raw.name == "best-1-raw.keras"
    assert any("ensemble-raw.keras is not saved: " in one.message for one in told if isinstance(one, Notice))
    given = raw_columns(table())
    plain = keras.saving.load_model(raw, compile=False, safe_mode=True)
    want = expected(load_model(folder / "best-1.keras"), table())
    np.testing.assert_allclose(plain.predict_on_batch(given), want, rtol=1e-6, atol=1e-6)
    written = raw.stat().st_mtime_ns
    assert save_raw_models(folder) == [raw]
    assert raw.stat().st_mtime_ns == written
    with pytest.raises(NotFoundError, match=r"there are 1, ensemble$"):
        file_of_model(workspace, "some", "final")
