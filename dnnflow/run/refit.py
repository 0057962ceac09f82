"""Train a study's best design once more, on the whole table and by many workers."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from dnnflow.design.layers import Design
from dnnflow.engines.losses import loss_of
from dnnflow.engines.process_setup import import_tensorflow
from dnnflow.engines.seam import make_importable
from dnnflow.events import Listener, Notice, ignore
from dnnflow.parallel.spec.train_options import RefitOptions, TrainOptions
from dnnflow.parameters import fields_of
from dnnflow.pipeline.study_pipeline import RefitSection
from dnnflow.run.models.saved_model import read_about, write_model
from dnnflow.run.train import TrainingPlan, carry_out, with_optimizer
from dnnflow.table.rows.array_source import DatasetSource
from dnnflow.table.store.chunks import SPLITS

if TYPE_CHECKING:
    from distributed import Client

    from dnnflow.parallel.driver.history import History
    from dnnflow.results.view.study_view import StudyView
    from dnnflow.run.study import Study


def best_design(study: "Study", view: "StudyView") -> Design | None:
    """Return the first design of the leaderboard; None where no design completed."""
    if not view.leaderboard:
        return None
    return next(design for design in study.designs if design.design_id == view.leaderboard[0].design_id)


def is_refitted(study: "Study", design: Design, section: RefitSection) -> bool:
    """Say whether the study has this design's model already, trained as the section says."""
    path = study.settings.workspace.refit(study.id)
    if not path.is_file():
        return False
    about = read_about(path)
    try:  # an option that came since then had its default
        trained = RefitSection.model_validate(about.get("refit"))
    except ValidationError:
        return False
    return (about.get("design_id"), trained) == (design.design_id, section)


def refit_design(study: "Study", design: Design, section: RefitSection, client: "Client",
                 listener: Listener = ignore) -> tuple[Path, "History"]:  # fmt: skip
    """Train a design on training and test rows together, and save it beside the study's models.

    No row is left to measure on: what is known of the model's accuracy is the design's own, of the study. The
    design's schedule and early stopping belong to a training in one process and are left out.

    Raises
    ------
    DnnflowError
        As `dnnflow.train` does.
    """
    import_tensorflow()
    from dnnflow.parallel.model.model_spec import ModelSpec

    dataset, job = study.dataset, study.job()
    make_importable(job.import_paths)
    if design.schedule.kind != "constant" or design.early_stopping is not None:
        listener(Notice("refit trains with a constant learning rate and to the last epoch"))
    if job.settings.class_weight is not None:
        listener(
            Notice("refit lets all classes count alike: class_weight is of the study's own designs alone")
        )
    loss = loss_of(job.settings.loss, job.settings.quantile, dataset.task)
    spec = ModelSpec.of_design(design, dataset.n_features, dataset.n_outputs, loss=loss)
    source = DatasetSource.open(dataset.path, *SPLITS)
    options = TrainOptions(
        algorithm=with_optimizer(section.to_algorithm(), spec.optimizer),
        epochs=section.epochs or design.epochs,
        batch_size=section.batch_size or design.batch_size,
        seed=design.seed,
        device=job.device,
        **fields_of(RefitOptions, section),
    )
    plan = TrainingPlan(spec=spec, source=source, options=options, import_paths=job.import_paths)
    trained = carry_out(plan, client, listener)
    path = study.settings.workspace.refit(study.id)
    record = {
        "design": design.to_dict(),
        "design_id": design.design_id,
        "study_id": study.id,
        "refit": section.model_dump(mode="json"),
        "rows": source.rows,
    }
    write_model(path, trained.model, dataset, record)
    return path, trained.history
