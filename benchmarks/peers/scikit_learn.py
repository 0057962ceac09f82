"""scikit-learn's `MLPClassifier` under joblib, one process a core."""

import time
import warnings

from dnnflow.design.layers import Design
from dnnflow.engines.process_setup import limit_threads
from peers.common import Arrays, Run, Task


def run(task: Task) -> Run:
    """Train the designs as joblib's users do."""
    limit_threads(1)
    from joblib import Parallel, delayed

    designs, arrays = task.designs(), task.arrays()
    start = time.perf_counter()
    with Parallel(n_jobs=task.cores) as parallel:
        parallel(delayed(prepare)() for _ in range(task.cores))
        begun = time.perf_counter()
        accuracies = parallel(delayed(train)(design, arrays) for design in designs)
        ended = time.perf_counter()
    found = {design.design_id: value for design, value in zip(designs, accuracies, strict=True)}
    return Run(ended - begun, begun - start, found)


def prepare() -> None:
    """Import scikit-learn, and stay long enough that every process gets one of these."""
    from sklearn.neural_network import MLPClassifier  # noqa: F401

    time.sleep(0.5)


def train(design: Design, arrays: Arrays) -> float:
    """Train and test one design."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    features, labels, test_features, test_labels = arrays
    first = design.layers[0]
    network = MLPClassifier(
        hidden_layer_sizes=[layer.units for layer in design.layers], activation=first.activation,
        solver="adam", alpha=0.0, batch_size=design.batch_size, max_iter=design.epochs,
        learning_rate_init=design.optimizer.learning_rate, random_state=design.seed,
    )  # fmt: skip
    with warnings.catch_warnings():
        # Ten epochs are what was asked for.
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(features, labels)
    return float(network.score(test_features, test_labels))
