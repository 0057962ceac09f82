"""What `model.fit` takes is trained on as `fit` does: by names, with weights, and tried before it begins."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from distributed import Client

from dnnflow.api import train
from dnnflow.errors import DataError, DnnflowError, InputError
from dnnflow.parallel.model.gradient import GradientStep
from dnnflow.parallel.model.model_spec import ModelSpec
from dnnflow.parallel.rows.batches import Batching, batches
from dnnflow.parallel.rows.bind_rows import BoundRows
from dnnflow.parallel.rows.leases import Lease
from dnnflow.parallel.rows.not_finite import find_not_finite
from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.rows.array_source import DatasetSource
from dnnflow.table.rows.source import Chunk, RowSource
from dnnflow.table.rows.sources import Reading, open_source
from dnnflow.table.store.ingest import ingest

ROWS, BATCH, RATE = 60, 20, 0.125
NAMES = ("hit_2", "hit_10", "hit_1")
"""In the order of the model's inputs, which is neither that of text nor that of numbers."""


def inputs() -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(0)
    return {name: drawn.normal(size=(ROWS, 1)).astype("float32") for name in NAMES}


def target() -> np.ndarray:
    given = inputs()
    return (2 * given["hit_2"] - given["hit_10"] + 5 * given["hit_1"]).astype("float32")


def row_weights() -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 3, ROWS).astype("float32")


def tracks(structure: Callable[[dict[str, Any]], Any] = lambda tensors: list(tensors.values())) -> Any:
    keras.utils.set_random_seed(2)
    tensors = {name: keras.Input((1,), name=name) for name in NAMES}
    joined = keras.layers.Concatenate()(list(tensors.values()))
    model = keras.Model(structure(tensors), keras.layers.Dense(1, name="energy")(joined))
    model.compile(keras.optimizers.SGD(RATE), "mse", weighted_metrics=["mae"])
    return model


def two_outputs(structure: Callable[[Any, Any], Any] = lambda one, two: [one, two]) -> Any:
    keras.utils.set_random_seed(2)
    x = keras.Input((3,), name="x")
    outputs = keras.layers.Dense(1, name="zeta")(x), keras.layers.Dense(1, name="alpha")(x)
    model = keras.Model(x, structure(*outputs))
    model.compile(keras.optimizers.SGD(RATE), "mse")
    return model


def classifier(loss: str = "sparse_categorical_crossentropy") -> Any:
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, "softmax")])
    model.compile(keras.optimizers.SGD(RATE), loss)
    return model


def bound(model: Any, data: Any, class_weight: Any = None, **reading: Any) -> RowSource:
    return BoundRows(ModelSpec.of(model), BATCH).bind(
        open_source(data, Reading(**reading)), class_weight=class_weight
    )


def taught(model: Any, source: RowSource) -> list[np.ndarray]:
    """Return the weights after an epoch of steps in the order of the rows, as one replica takes them."""
    spec = ModelSpec.of(model)
    step, weights = GradientStep(spec.build()), spec.vector.copy()
    leases = (
        Lease(number, 0, Chunk(file, 0, count))
        for number, (file, count) in enumerate((f, c) for f, c in enumerate(source.counts) if c)
    )
    for batch in batches(source, leases, Batching(BATCH, shuffle=False)):
        weights -= np.float32(RATE) * step.gradient(weights, batch.for_keras()).vector
    step.set(weights)
    return list(step._model.get_weights())


def assert_as_fit(model: Any, source: RowSource, *fitted: Any, **how: Any) -> None:
    got = taught(model, source)
    model.run_eagerly = True
    model.fit(*fitted, epochs=1, shuffle=False, verbose=0, **how)
    for one, other in zip(got, model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


# By names


STRUCTURES: dict[str, Any] = {
    "list": lambda tensors: list(tensors.values()),
    "dict": dict,
    "sorted-dict": lambda tensors: dict(sorted(tensors.items())),
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_dict_goes_to_the_inputs_of_its_names(structure: str):
    model = tracks(STRUCTURES[structure])
    shuffled = {name: inputs()[name] for name in sorted(NAMES)}
    assert_as_fit(model, bound(model, (shuffled, target())), shuffled, target(), batch_size=BATCH)


def test_a_list_goes_to_the_inputs_in_order():
    model, given = tracks(), list(inputs().values())
    assert_as_fit(model, bound(model, [given, target()]), given, target(), batch_size=BATCH)


@pytest.mark.parametrize("structure", [lambda one, two: [one, two], lambda one, two: {"b": one, "a": two}])
def test_a_dict_of_targets_goes_to_the_outputs_of_its_names(structure: Any):
    model = two_outputs(structure)
    x, y = np.random.default_rng(0).normal(size=(ROWS, 3)), target()
    names = ("b", "a") if isinstance(model.output, dict) else ("zeta", "alpha")
    targets = {names[1]: -y, names[0]: 3 * y}
    assert_as_fit(model, bound(model, (x, targets)), x, targets, batch_size=BATCH)


def write_h5(path: Path, **arrays: Any) -> str:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return str(path)


def grouped(prefix: str = "features") -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": array for name, array in inputs().items()}


@pytest.mark.parametrize("form", ["h5", "npz", "parquet", "named-h5", "frame", "dict"])
def test_names_of_arrays_and_columns_are_those_of_inputs(form: str, tmp_path: Path):
    table = pd.DataFrame({name: array[:, 0] for name, array in inputs().items()}).sort_index(axis=1)
    table["labels"] = target()[:, 0]
    reading: dict[str, Any] = {}
    data: Any
    if form == "h5":
        data = write_h5(tmp_path / "rows.h5", **grouped(), labels=target())
    elif form == "npz":
        data = tmp_path / "rows.npz"
        np.savez(data, labels=target(), **grouped())  # type: ignore[arg-type]
    elif form == "parquet":
        data = tmp_path / "rows.parquet"
        table.to_parquet(data)
    elif form == "named-h5":
        data, reading = (
            write_h5(tmp_path / "rows.h5", **inputs(), labels=target()),
            {"features": sorted(NAMES)},
        )
    elif form == "frame":
        data = table
    else:
        data = {"features": inputs(), "labels": target()}
    model = tracks()
    assert_as_fit(model, bound(model, data, **reading), inputs(), target(), batch_size=BATCH)


def test_what_cannot_be_bound_is_refused_with_both_lists(tmp_path: Path):
    renamed = {name.replace("hit", "cell"): array for name, array in inputs().items()}
    both = r"hit_2, hit_10, hit_1, got cell_1, cell_2, cell_10"
    with pytest.raises(InputError, match=both):
        bound(tracks(), (renamed, target()))
    path = write_h5(
        tmp_path / "r.h5", labels=target(), **{f"features/{name}": array for name, array in renamed.items()}
    )
    with pytest.raises(InputError, match=both):
        bound(tracks(), path)
    with pytest.raises(InputError, match=r"hit_2, hit_10, hit_1, got input 0, input 1"):
        bound(tracks(), ([inputs()["hit_1"]] * 2, target()))
    with pytest.raises(InputError, match=r"zeta, alpha, got beta, gamma"):
        bound(two_outputs(), (np.zeros((ROWS, 3)), {"beta": target(), "gamma": target()}))
    # As the sentence says: in the model's order
    listed = [f"features/{name.replace('hit', 'cell')}" for name in NAMES]
    model = tracks()
    assert_as_fit(model, bound(model, path, features=listed), inputs(), target(), batch_size=BATCH)


def test_numbers_in_names_sort_as_numbers(tmp_path: Path):
    path = write_h5(tmp_path / "r.h5", **{f"features/{n}": np.zeros(4) for n in NAMES}, labels=np.zeros(4))
    wanted = ["features/hit_1", "features/hit_2", "features/hit_10"]
    assert [field.name for field in open_source(path).inputs] == wanted


class Own(keras.Model):
    """A model that says no inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, given: Any) -> Any:
        return self.dense(given["hit_1"] - 2 * given["hit_10"])


def own_model() -> Any:
    keras.utils.set_random_seed(2)
    model = Own()
    model(inputs())
    model.compile(keras.optimizers.SGD(RATE), "mse")
    return model


def test_a_model_with_a_call_of_its_own_is_given_the_dict():
    spec = ModelSpec.load(f"{__name__}:own_model")
    source = BoundRows(spec, BATCH).bind(open_source((inputs(), target())))
    first = next(iter(batches(source, [Lease(0, 0, Chunk(0, 0, 5))], Batching(5, shuffle=False))))
    assert np.array_equal(first.for_keras()[0]["hit_10"], inputs()["hit_10"][:5])


# Whatever fit takes


class Pieces(keras.utils.PyDataset):
    """The rows in batches, with weights."""

    def __len__(self) -> int:
        return ROWS // BATCH

    def __getitem__(self, index: int) -> Any:
        part = slice(index * BATCH, (index + 1) * BATCH)
        rows = {name: array[part] for name, array in inputs().items()}
        return rows, target()[part], row_weights()[part]


def pieces() -> Iterator[Any]:
    yield from (Pieces()[index] for index in range(len(Pieces())))


@pytest.mark.parametrize("kind", ["triple", "py-dataset", "tf-data", "generator", "kept-generator", "frames"])
def test_rows_with_weights_of_each_kind_teach_what_fit_teaches(kind: str, tmp_path: Path):
    model, triple = tracks(), (inputs(), target(), row_weights())
    reading: dict[str, Any] = {}
    given: Any = triple
    if kind == "py-dataset":
        given = Pieces()
    elif kind == "tf-data":
        given = tf.data.Dataset.from_tensor_slices(triple).batch(BATCH)
    elif kind == "generator":
        given = pieces()
    elif kind == "kept-generator":
        given, reading = pieces(), {"cache_dir": str(tmp_path)}
    elif kind == "frames":
        given = ({name: pd.DataFrame(array) for name, array in inputs().items()}, pd.Series(target()[:, 0]))
        given = (*given, pd.Series(row_weights()))
    assert_as_fit(
        model, bound(model, given, **reading), *triple[:2], sample_weight=triple[2], batch_size=BATCH
    )


def test_a_frame_is_one_input_for_a_model_with_one():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(ROWS, 3)), columns=["a", "b", "c"])
    labels = pd.Series(np.arange(ROWS) % 3)
    model = classifier()
    assert_as_fit(model, bound(model, (frame, labels)), frame, labels, batch_size=BATCH)
    model = classifier()
    weighted = frame.assign(kind=labels, w=row_weights())
    source = bound(model, weighted, labels="kind", weights="w")
    assert_as_fit(model, source, frame, labels, sample_weight=row_weights(), batch_size=BATCH)
    with pytest.raises(DataError, match="columns must be numbers, but b is"):
        open_source((frame.assign(b="text"), labels))


@pytest.mark.parametrize("form", ["numbers", "column", "one-hot"])
def test_class_weights_are_those_of_fit(form: str):
    x, classes = np.random.default_rng(0).normal(size=(ROWS, 3)), np.arange(ROWS) % 3
    y = {"numbers": classes, "column": classes[:, None], "one-hot": np.eye(3)[classes]}[form]
    model = classifier("categorical_crossentropy" if form == "one-hot" else "sparse_categorical_crossentropy")
    weights = {0: 0.5, 2: 4.0}
    assert_as_fit(model, bound(model, (x, y), weights), x, y, class_weight=weights, batch_size=BATCH)


def test_weights_of_each_output_and_one_for_all():
    x, y = np.random.default_rng(0).normal(size=(ROWS, 3)), target()
    targets = {"zeta": y, "alpha": -y}
    for weights in (row_weights(), {"alpha": row_weights(), "zeta": row_weights()[::-1].copy()}):
        model = two_outputs()
        source = bound(model, (x, targets, weights))
        in_order = [weights["zeta"], weights["alpha"]] if isinstance(weights, dict) else weights
        assert_as_fit(model, source, x, [y, -y], sample_weight=in_order, batch_size=BATCH)


@pytest.mark.parametrize("form", ["h5", "npz", "parquet"])
def test_files_have_weights_by_name(form: str, tmp_path: Path):
    x, y = np.random.default_rng(0).normal(size=(ROWS, 3)).astype("float32"), np.arange(ROWS) % 3
    path = tmp_path / f"rows.{form}"
    if form == "h5":
        write_h5(path, features=x, labels=y, w=row_weights())
    elif form == "npz":
        np.savez(path, features=x, labels=y, w=row_weights())
    else:
        pd.DataFrame(x, columns=["a", "b", "c"]).assign(labels=y, w=row_weights()).to_parquet(path)
    model = classifier()
    source = bound(model, path, weights="w")
    assert [field.name for field in source.weights] == ["w"]
    assert_as_fit(model, source, x, y, sample_weight=row_weights(), batch_size=BATCH)


def test_row_labels_of_pandas_are_no_feature(tmp_path: Path):
    table = pd.DataFrame({"a": np.zeros(9), "b": np.ones(9), "labels": np.arange(9)})
    for number, one in enumerate(
        [
            table,
            table.sample(frac=1, random_state=0),
            table.set_index(pd.Index(np.arange(9) ** 2, name="event")),
            table.set_index(pd.MultiIndex.from_arrays([np.arange(9)] * 2, names=["run", None])),
        ]
    ):
        one.to_parquet(tmp_path / f"{number}.parquet")
        source = open_source(tmp_path / f"{number}.parquet")
        assert [field.name for field in source.inputs] == ["a, b"]
    named = open_source(tmp_path / "2.parquet", Reading(features=("event", "a")))
    assert [field.name for field in named.inputs] == ["event, a"]


def test_what_fit_refuses_is_refused():
    x, y = np.zeros((ROWS, 3)), np.arange(ROWS) % 3
    with pytest.raises(InputError, match="leave class_weight out"):
        bound(classifier(), (x, y, row_weights()), {0: 2.0})
    with pytest.raises(InputError, match="for models with one output"):
        bound(two_outputs(), (x, [target(), target()]), {0: 2.0})
    with pytest.raises(InputError, match="numbers of classes"):
        bound(classifier(), (x, y), {"muon": 2.0})
    with pytest.raises(InputError, match="beside a pair of arrays"):
        train(classifier(), Pieces(), sample_weight=row_weights())
    with pytest.raises(InputError, match="cut it by take"):
        open_source(tf.data.Dataset.from_tensors((x, y)).repeat())
    with pytest.raises(DataError, match="as many rows"):
        open_source((x, y, row_weights()[1:]))


def test_an_endless_generator_is_refused_and_can_be_cut(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dnnflow.table.rows.user_source.MOST_HELD_BYTES", 10_000)
    with pytest.raises(DataError, match=r"itertools\.islice"):
        open_source(itertools.cycle(pieces()))
    assert open_source(itertools.islice(itertools.cycle(pieces()), 4)).rows == 4 * BATCH
    with pytest.raises(InputError, match="was it used up"):
        open_source(iter(()))


# Tried before


def test_shapes_are_those_of_the_model(tmp_path: Path):
    y = np.arange(ROWS) % 3
    path = write_h5(tmp_path / "narrow.h5", features=np.zeros((ROWS, 2)), labels=y)
    with pytest.raises(
        InputError, match=r"takes \(3,\) as input .*features of the rows \(.*narrow.h5\) is \(2,\)"
    ):
        bound(classifier(), path)
    with pytest.raises(InputError, match=r"takes \(3,\) as target .*is \(2,\)"):
        bound(classifier("categorical_crossentropy"), (np.zeros((ROWS, 3)), np.zeros((ROWS, 2))))
    one = two_outputs(lambda first, second: first)
    with pytest.raises(InputError, match=r"takes \(1,\) as target zeta, .*is \(4,\)"):
        bound(one, (np.zeros((ROWS, 3)), np.zeros((ROWS, 4))))
    for shape in ((ROWS,), (ROWS, 1)):
        bound(one, (np.zeros((ROWS, 3)), np.zeros(shape)))


def test_fractions_are_not_cut_to_whole_numbers():
    model = keras.Sequential(
        [keras.Input((1,), dtype="int32"), keras.layers.Embedding(9, 2), keras.layers.Flatten()]
    )
    model.compile("sgd", "mse")
    with pytest.raises(InputError, match=r"takes int32 .* has 0.5"):
        bound(model, (np.full((4, 1), 0.5), np.zeros((4, 2))))
    bound(model, (np.full((4, 1), 3.0), np.zeros((4, 2))))


def test_the_model_is_tried_on_the_first_row():
    with pytest.raises(InputError, match="the rows, row 0 of the arrays: a batch must fit"):
        bound(classifier(), (np.zeros((ROWS, 3)), np.full(ROWS, 7)))


@pytest.mark.parametrize(("value", "told"), [(np.nan, "nan"), (np.inf, "inf"), (1e300, "beyond float32")])
def test_a_number_that_is_not_finite_is_named_by_file_and_row(value: float, told: str, tmp_path: Path):
    x = np.zeros((ROWS, 3))
    first = write_h5(tmp_path / "one.h5", features=x, labels=np.zeros(ROWS))
    x[37, 1] = value
    second = write_h5(tmp_path / "two.h5", features=x, labels=np.zeros(ROWS))
    source, batching = open_source([first, second]), Batching(BATCH)
    leases = [Lease(number, 0, Chunk(number, 0, ROWS)) for number in (0, 1)]
    found = list(batches(source, leases, batching))
    sentence = find_not_finite(source, found, batching)
    assert sentence is not None
    assert f"row 37 (from 0) of {second}" in sentence
    assert told in sentence
    assert find_not_finite(source, found[:3], batching) is None


# On a cluster


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "how"),
    [
        ("downpour", {}),
        ("downpour", {"sync_every": 2, "replica_optimizer": OptimizerSpec("sgd", RATE)}),
        ("easgd", {"synchronous": True, "sync_every": 2}),
    ],
)
def test_weights_reach_each_algorithm(algorithm: str, how: Any, cluster: Client):
    given = inputs()
    wrong = np.concatenate([target(), -target()])
    twice = {name: np.concatenate([array, array]) for name, array in given.items()}
    weights = np.repeat([1.0, 0.0], ROWS)
    ended = train(
        tracks(), (twice, wrong, weights), client=cluster, algorithm=algorithm, replicas=2, epochs=60,
        batch_size=BATCH, validation=(given, target(), row_weights()), **how,
    )  # fmt: skip
    model = ended["model"]
    assert np.mean((model.predict(given, verbose=0) - target()) ** 2) < 0.05
    expected = model.evaluate(given, target(), sample_weight=row_weights(), verbose=0, return_dict=True)
    last = ended["history"].rows[-1]
    assert last["val_loss"] == pytest.approx(expected["loss"], rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_one_replica_teaches_what_fit_teaches(cluster: Client):
    model, epochs = tracks(), 2
    ended = train(
        model, (inputs(), target()), sample_weight=row_weights(), client=cluster, replicas=1, epochs=epochs,
        batch_size=ROWS, synchronous=True,
    )  # fmt: skip
    model.fit(inputs(), target(), sample_weight=row_weights(), epochs=epochs, batch_size=ROWS, verbose=0)
    for one, other in zip(ended["model"].get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_nan_in_a_file_ends_the_training_with_its_row(cluster: Client, tmp_path: Path):
    x = np.zeros((ROWS, 3))
    x[41, 2] = np.nan
    path = write_h5(tmp_path / "bad.h5", features=x, labels=np.arange(ROWS) % 3)
    with pytest.raises(DnnflowError, match=r"row 41 \(from 0\) of .*bad.h5 has nan in features"):
        train(classifier(), path, client=cluster, replicas=1, epochs=1, batch_size=BATCH)


def test_what_is_no_rows_is_refused_in_words():
    x, y = np.zeros((ROWS, 3)), np.arange(ROWS) % 3
    for wrong in (x, [x], (x, y, row_weights(), row_weights())):
        with pytest.raises(InputError, match="rows must come from"):
            open_source(wrong)
    with pytest.raises(InputError, match="features must be among those given, got features, there are x, y"):
        open_source({"x": x, "y": y})
    with pytest.raises(InputError, match="labels must be among those given, got labels, there are a, b"):
        open_source(pd.DataFrame({"a": y, "b": y}))


def test_a_dataset_is_trained_with_its_weights(tmp_path: Path):
    drawn = np.random.default_rng(3)
    table = pd.DataFrame(drawn.normal(size=(80, 3)), columns=["a", "b", "c"]).assign(
        kind=np.repeat(["x", "y"], 40), w=drawn.uniform(1, 2, 80)
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    recipe = Recipe(label="kind", weights="w")
    dataset = ingest(Source(url=str(tmp_path / "t.csv")), recipe, tmp_path / "datasets")
    source = open_source(dataset)
    assert dataset.weights is not None
    assert dataset.test_weights is not None
    assert np.array_equal(source.read(Chunk(0, 3, 9))[2][0], dataset.weights[3:9])
    whole = DatasetSource.open(dataset.path, "train", "test")
    assert len(whole.weights) == 1
    assert np.array_equal(whole.read(Chunk(1, 0, 5))[2][0], dataset.test_weights[:5])
    assert not DatasetSource.open(dataset.path, "test").weights
    assert_as_fit(
        classifier(), bound(classifier(), dataset), *dataset.arrays("train"),
        sample_weight=dataset.weights, batch_size=BATCH,
    )  # fmt: skip
