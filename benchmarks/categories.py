"""Which columns a text column of many values should become: accuracy of two models on made tables.

The label depends on one such column, whose values are of even or of Zipf's frequencies, and on three numbers.

    OMP_NUM_THREADS=1 python benchmarks/categories.py
"""

import argparse
import hashlib
import sys
import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

TABLES = ((1000, 200, 1.0), (1000, 200, 0.0), (1000, 1000, 1.0), (5000, 300, 0.0), (5000, 2000, 1.0))
"""Training rows, values, and exponent of their frequencies."""
WAYS = ("none", "frequent 63", "frequent 127", "frequent 255", "one-hot", "hash 64")
TEST_ROWS = 2000


def columns_of(way: str, codes: NDArray[np.int64], values: int, rows: int) -> NDArray[np.float32]:
    """Return the columns, (all rows, columns), of values by a way fitted to the first `rows`."""
    place, width = np.arange(values), values
    if way.startswith("frequent"):
        counts = np.bincount(codes[:rows], minlength=values)
        most = int(way.split()[1])
        frequent = [value for value in np.argsort(-counts, kind="stable")[:most] if counts[value] > 1]
        width = len(frequent) + 1
        place = np.full(values, width - 1)
        place[frequent] = np.arange(len(frequent))
    elif way.startswith("hash"):
        width = int(way.split()[1])
        hashes = (hashlib.blake2b(str(value).encode(), digest_size=8).digest() for value in range(values))
        place = np.array([int.from_bytes(one, "little") % width for one in hashes])
    elif way == "none":
        return np.zeros((len(codes), 0), np.float32)
    return np.eye(width, dtype=np.float32)[place[codes]]


def accuracies(rows: int, values: int, exponent: float, seed: int) -> dict[str, list[float]]:
    """Return the accuracy on test rows of logistic regression and of a network, by way."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, values + 1) ** exponent
    n_all = rows + TEST_ROWS
    codes = rng.choice(values, n_all, p=weights / weights.sum())
    effects, numbers = 1.5 * rng.normal(size=values), rng.normal(size=(n_all, 3))
    score = effects[codes] + numbers[:, 0] + 0.5 * numbers[:, 1] * numbers[:, 2] + rng.logistic(size=n_all)
    label = (score > 0).astype(int)
    found = {}
    for way in WAYS:
        features = np.hstack([numbers, columns_of(way, codes, values, rows)])
        network = MLPClassifier((64,), early_stopping=True, random_state=seed, max_iter=100)
        models = (LogisticRegression(max_iter=500), network)
        fitted = (model.fit(features[:rows], label[:rows]) for model in models)
        found[way] = [float(model.score(features[rows:], label[rows:])) for model in fitted]
    return found


def main() -> None:
    """Print the mean accuracies of each table and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    warnings.filterwarnings("ignore")
    for rows, values, exponent in TABLES:
        sys.stdout.write(f"{rows:,} rows, {values:,} values, exponent {exponent:g}: logistic, network\n")
        found = [accuracies(rows, values, exponent, seed) for seed in range(seeds)]
        for way in WAYS:
            logistic, network = np.mean([one[way] for one in found], axis=0)
            sys.stdout.write(f"  {way:13} {logistic:.3f} {network:.3f}\n")


if __name__ == "__main__":
    main()
