"""How many designs an hour dnnflow trains, beside what its users would use instead.

    python benchmarks/designs_per_hour.py                       # 20,000 designs beside the peers, 3 rounds
    python benchmarks/designs_per_hour.py --space wide          # dropout, normalisation, all optimizers
    python benchmarks/designs_per_hour.py --part peak           # useful arithmetic against one core's sgemm
    python benchmarks/designs_per_hour.py --part yardstick      # is it as right as Keras is with itself?
    python benchmarks/designs_per_hour.py --part end-to-end     # 50,000 designs from CSV to report
    python benchmarks/designs_per_hour.py --part memory         # 10,000 designs in one process

All systems get the same rows of digits and the first designs of one list (depth 1 to 5, width 16 to 128, relu
or tanh, Adam, batch 32, 10 epochs; or another of `SPACES`), use both cores with one thread a process, and
take turns, round by round.
Each run has processes of its own. A peer's clock starts when its processes have imported what they need;
dnnflow's starts before its designs are drawn, with its cluster, its imports and its traces still to come.
Ray Tune and KerasTuner take part where they are installed.
"""

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peers.common import SPACES, Run, Task

from dnnflow.engines.process_setup import limit_threads


@dataclass(frozen=True)
class Peer:
    """A system that trains designs."""

    run: str
    """`module:function` of a `Task` that returns a `Run`."""
    n_designs: int
    package: str = "keras"
    """What it needs."""
    install: str = ""
    """How to get that, where it is optional."""
    goal: float | None = None
    """How many times the designs of this one dnnflow is to train."""
    goal_warm: float | None = None
    """The same, with dnnflow's start-up left out as that of the peers is."""


OURS = "dnnflow"
PEERS = {
    OURS: Peer("peers.dnnflow_study:run", 20_000),
    "keras fit": Peer("peers.keras_fit:as_written", 64, goal=100),
    "keras fit, tuned": Peer("peers.keras_fit:tuned", 64),
    "scikit-learn": Peer("peers.scikit_learn:run", 500, "sklearn", "pip install scikit-learn", goal_warm=7),
    "ray tune, functions": Peer("peers.ray_tune:as_function", 64, "ray", "pip install ray[tune]"),
    "ray tune, actors": Peer("peers.ray_tune:with_reused_actors", 64, "ray", "pip install ray[tune]"),
    "keras tuner": Peer(
        "peers.keras_tuner_search:run", 64, "keras_tuner", "pip install keras-tuner tensorboard"
    ),
}


@dataclass(frozen=True)
class Part:
    """Something measured beside the comparison."""

    run: str
    """`module:function` of a `Task` that measures and prints."""
    n_designs: int
    one_thread: bool = True
    """Whether the measuring process trains itself, as a worker does."""


PARTS = {
    "peak": Part("peers.sgemm:measure", 256),
    "yardstick": Part("peers.one_ulp:measure", 400),
    "end-to-end": Part("peers.whole_flow:measure", 50_000, one_thread=False),
    "memory": Part("peers.memory:measure", 10_000),
}


@dataclass(frozen=True)
class Row:
    """A line of the comparison: medians over the rounds."""

    name: str
    n_designs: int
    rate: float
    """Designs an hour."""
    spread: tuple[float, float]
    """Lowest and highest rate of a round."""
    ratio: float
    """Designs that dnnflow trains meanwhile, start-up and tracing included; of runs of one round."""
    ratio_warm: float
    """The same, without dnnflow's start-up."""
    mean: float
    """Test accuracy."""
    best: float
    ours: float
    """dnnflow's mean test accuracy over the designs of this row."""
    startup_s: float
    tracing_s: float | None

    @classmethod
    def of(cls, name: str, runs: Sequence[Run], ours: Sequence[Run]) -> "Row":
        """Sum up a system's runs beside dnnflow's of the same rounds."""
        rates = [run.rate for run in runs]
        pairs = list(zip(runs, ours, strict=True))
        last, same = runs[-1].accuracies, ours[-1].accuracies
        tracing = [run.tracing_s for run in runs if run.tracing_s is not None]
        return cls(
            name=name,
            n_designs=len(last),
            rate=statistics.median(rates),
            spread=(min(rates), max(rates)),
            ratio=statistics.median(ours.rate / run.rate for run, ours in pairs),
            ratio_warm=statistics.median(warm_rate(ours) / run.rate for run, ours in pairs),
            mean=statistics.fmean(last.values()),
            best=max(last.values()),
            ours=mean([same[name] for name in last if name in same]),
            startup_s=statistics.median(run.startup_s for run in runs),
            tracing_s=statistics.median(tracing) if tracing else None,
        )


def warm_rate(run: Run) -> float:
    """Return a run's designs an hour without its start-up; its tracing still counts."""
    return run.rate * run.seconds_s / (run.seconds_s - run.startup_s)


def mean(values: Sequence[float]) -> float:
    """Return the mean, NaN of nothing."""
    return statistics.fmean(values) if values else float("nan")


def show(rows: Sequence[Row]) -> None:
    """Print the comparison."""
    print(f"{'':20}{'designs':>8}{'an hour':>11}{'range':>21}{'dnnflow is':>12}{'warm':>8}"
          f"{'mean acc.':>11}{'dnnflow':>9}{'best':>8}{'start-up':>10}{'tracing':>9}")  # fmt: skip
    for row in rows:
        spread = f"{row.spread[0]:,.0f}-{row.spread[1]:,.0f}"
        tracing = f"{row.tracing_s:7.1f} s" if row.tracing_s is not None else f"{'-':>9}"
        print(f"{row.name:20}{row.n_designs:8,}{row.rate:11,.0f}{spread:>21}{row.ratio:11.2f}x"
              f"{row.ratio_warm:7.2f}x{row.mean:11.4f}{row.ours:9.4f}{row.best:8.4f}{row.startup_s:8.1f} s"
              f"{tracing}")  # fmt: skip
    print("dnnflow is: how many designs it trains while the other trains one, start-up and tracing included; "
          "warm: without its start-up.\nmean acc., best: test accuracy; dnnflow: its mean over the same "
          "designs; tracing: seconds of each core.")  # fmt: skip


def judge(rows: Sequence[Row]) -> None:
    """Print which goals are met."""
    for row in rows:
        peer = PEERS[row.name]
        for goal, ratio, what in ((peer.goal, row.ratio, "start-up and tracing included"),
                                  (peer.goal_warm, row.ratio_warm, "without start-up")):  # fmt: skip
            if goal is not None:
                verdict = "meets" if ratio >= goal else "does not meet"
                print(f"{ratio:.1f} times {row.name}, {what}: {verdict} the goal of {goal:g}")


def compare(options: argparse.Namespace) -> None:
    """Let all systems take turns, and print them beside each other."""
    names = [OURS, *(name for name in options.peers if name != OURS and is_there(name))]
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            run = run_apart(name, options)
            runs[name].append(run)
            print(f"round {number + 1}: {name}: {len(run.accuracies):,} designs in {run.seconds_s:.1f} s, "
                  f"{run.rate:,.0f} an hour", *run.notes, sep="\n    ", flush=True)  # fmt: skip
    rows = [Row.of(name, found, runs[OURS]) for name, found in runs.items()]
    print(f"\n{options.rounds} rounds, {options.cores} cores, dnnflow's engine {options.engine}")
    show(rows)
    judge(rows)


def is_there(name: str) -> bool:
    """Say whether what a peer needs is installed, and print what to do where it is not."""
    if importlib.util.find_spec(PEERS[name].package):
        return True
    print(f"{name}: not installed: {PEERS[name].install}")
    return False


def run_apart(name: str, options: argparse.Namespace) -> Run:
    """Run a system in a process of its own, with a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="dnnflow-designs-") as home:
        command = [sys.executable, __file__, "--peer", name, "--home", home, "--engine", options.engine,
                   "--cores", str(options.cores), "--space", options.space]  # fmt: skip
        count = options.designs if name == OURS else options.peer_designs
        if count:
            command += ["--designs", str(count)]
        done = subprocess.run(command)
        if done.returncode:
            raise SystemExit(f"{name} failed with exit code {done.returncode}")
        said = json.loads((Path(home) / "run.json").read_text())
    if not said["accuracies"]:
        raise SystemExit(f"{name} must complete a design, got none; see what it says above")
    return Run(**said | {"notes": tuple(said["notes"])})


def run_here(options: argparse.Namespace) -> None:
    """Run a system in this process, and leave what came of it in its directory."""
    peer = PEERS[options.peer]
    run: Run = found(peer.run)(task(options, options.home, peer.n_designs))
    (options.home / "run.json").write_text(json.dumps(asdict(run)))


def task(options: argparse.Namespace, home: Path, n_designs: int) -> Task:
    """Return what a system or a part is to do."""
    return Task(home, options.designs or n_designs, options.cores, options.engine, options.space)


def found(target: str) -> Callable[[Task], Any]:
    """Import the function of `module:function`."""
    module, _, name = target.partition(":")
    function: Callable[[Task], Any] = getattr(importlib.import_module(module), name)
    return function


def run_part(part: Part, options: argparse.Namespace) -> None:
    """Measure and print a part, with files in a directory that is removed."""
    if part.one_thread:
        limit_threads(1)  # before the part is imported: numpy counts its threads when it is
    with tempfile.TemporaryDirectory(prefix="dnnflow-designs-") as home:
        found(part.run)(task(options, Path(home), part.n_designs))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=["peers", *PARTS], default="peers")
    parser.add_argument("--designs", type=int, help="of dnnflow, or of the part; the defaults are the goals'")
    parser.add_argument("--peer-designs", type=int, help="of every other system; default: 64 and 500")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="who takes part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--space", choices=SPACES, default="plain", help="what designs are drawn from")
    parser.add_argument("--engine", default="auto", help="of dnnflow")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run what is asked for."""
    options = arguments()
    if options.peer:
        run_here(options)
    elif options.part == "peers":
        compare(options)
    else:
        run_part(PARTS[options.part], options)


if __name__ == "__main__":
    main()
