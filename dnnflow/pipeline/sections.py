"""Hold what all sections of a pipeline have in common, and the section about refitting its best design."""

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from dnnflow.parallel.spec.algorithm import Algorithm, Exchange, Kind, KindName, RefitExchange
from dnnflow.parallel.spec.train_options import RefitOptions
from dnnflow.parameters import Parameters, fields_of


class Section(Parameters):
    """Base of all parts."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


class AlgorithmSection(Section):
    """How a model is trained, in every section that says so."""

    algorithm: KindName = Kind.DOWNPOUR

    @model_validator(mode="after")
    def _makes_an_algorithm(self) -> Self:
        self.to_algorithm()
        return self

    def to_algorithm(self) -> Algorithm:
        """Return the algorithm, without the model's optimizer.

        Raises
        ------
        ValueError
            If its parts do not fit together.
        """
        return Algorithm(kind=self.algorithm, **fields_of(Exchange, self))


class RefitSection(RefitExchange, AlgorithmSection, RefitOptions):
    """How the best design is trained once more, data-parallel, on training and test rows together."""

    epochs: int | None = Field(default=None, ge=1)
    """Passes over the whole table; default: the epochs that the design was trained for."""
    batch_size: int | None = Field(default=None, ge=1)
    """Rows of one replica's step; default: the design's."""
