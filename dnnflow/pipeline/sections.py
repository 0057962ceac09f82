"""What all sections of a pipeline have in common, and the section about refitting its best design."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dnnflow.parallel.spec.algorithm import Algorithm


class Section(BaseModel):
    """Base of all parts: frozen, unknown keys refused, field docstrings are the schema's descriptions."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        populate_by_name=True,
        serialize_by_alias=True,
    )


class RefitSection(Section):
    """How the best design is trained once more, data-parallel, on training and test rows together."""

    replicas: int | None = Field(default=None, ge=1)
    """Copies of the model that compute at once; default: one a worker that holds no server."""
    servers: int = Field(default=1, ge=1)
    """Parameter servers, each of which holds a slice of the weights."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes over the whole table; default: the epochs that the design was trained for."""
    batch_size: int | None = Field(default=None, ge=1)
    """Rows of one replica's step; default: the design's."""
    algorithm: Literal["downpour", "easgd", "gem", "diloco"] = "downpour"
    """What replicas push, and what the server does with it; docs/parallel.md has the formulas."""
    synchronous: bool = False
    """Whether the server waits for all replicas and averages, or applies each push when it comes."""
    sync_every: int = Field(default=1, ge=1)
    """Batches a replica trains on between two pushes."""
    damping: bool = False
    """Whether a push that is later than usual is applied with a lower rate."""
    staleness_bound: int | None = Field(default=None, ge=0)
    """Pushes that an asynchronous replica may be ahead of the slowest; null for no bound."""
    time_limit_s: float | None = Field(default=None, gt=0.0)
    """Seconds after which it ends, with the weights it has by then."""

    @model_validator(mode="after")
    def _makes_an_algorithm(self) -> Self:
        self.to_algorithm()
        return self

    def to_algorithm(self) -> Algorithm:
        """Return the algorithm, without the design's optimizer.

        Raises
        ------
        ValueError
            If its parts do not fit together.
        """
        given: dict[str, Any] = self.model_dump(
            include={"synchronous", "sync_every", "damping", "staleness_bound"}
        )
        return Algorithm(kind=self.algorithm, **given)  # type: ignore[arg-type]
