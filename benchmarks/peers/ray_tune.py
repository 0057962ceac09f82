"""Ray Tune with Keras' `fit`: a function for each trial, and actors that are reused."""

import json
import os
import time
from pathlib import Path
from typing import Any

from dnnflow.design.layers import Design
from dnnflow.engines.process_setup import limit_threads
from peers.common import Arrays, Run, Task
from peers.keras_fit import prepare, train


def as_function(task: Task) -> Run:
    """Train each design as a function of its own, the form that Ray's guides begin with."""
    from ray import tune

    def trainable(config: dict[str, Any], arrays: Arrays) -> None:
        tune.report({"accuracy": train_text(config["design"], arrays)})

    return tuned(trainable, task, reuse_actors=False)


def with_reused_actors(task: Task) -> Run:
    """Train the designs in actors that stay, the fastest form."""
    from ray import tune

    class Trainable(tune.Trainable):
        def setup(self, config: dict[str, Any], arrays: Arrays) -> None:
            self.arrays = arrays
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.design = new_config["design"]
            return True

        def step(self) -> dict[str, Any]:
            return {"accuracy": train_text(self.design, self.arrays), "done": True}

    return tuned(Trainable, task, reuse_actors=True)


def train_text(design: str, arrays: Arrays) -> float:
    """Train and test the design that a JSON text says."""
    limit_threads(1)
    prepare()
    return train(Design.from_dict(json.loads(design)), arrays)


def tuned(trainable: Any, task: Task, *, reuse_actors: bool) -> Run:
    """Run all designs through a tuner; its time includes the import of Keras in each of Ray's processes."""
    import ray
    from ray import tune

    designs, arrays = task.designs(), task.arrays()
    start = time.perf_counter()
    folders = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    ray.init(num_cpus=task.cores, include_dashboard=False, log_to_driver=False, configure_logging=False,
             # Where Ray's processes find this module
             runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(folders)}})  # fmt: skip
    begun = time.perf_counter()
    found = tune.Tuner(
        tune.with_parameters(trainable, arrays=arrays),
        param_space={"design": tune.grid_search([json.dumps(design.to_dict()) for design in designs])},
        tune_config=tune.TuneConfig(reuse_actors=reuse_actors),
        run_config=tune.RunConfig(
            storage_path=str(task.home / "ray"),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    ).fit()
    ended = time.perf_counter()
    ray.shutdown()
    results = [result for result in found if result.error is None]
    accuracies = {id_of(result.config): result.metrics["accuracy"] for result in results}
    return Run(ended - begun, begun - start, accuracies)


def id_of(config: dict[str, Any]) -> str:
    """Return the id of a trial's design."""
    return Design.from_dict(json.loads(config["design"])).design_id
