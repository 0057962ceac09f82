"""One hierarchy for everything dnnflow refuses or fails at.

A message says the rule, what was got and the remedy, in that order, on one line.
"""

INTERRUPTED = "stopped; run the same command again to go on with what is missing"
"""What the command line says of Ctrl-C."""
INTERRUPTED_CODE = 130


class DnnflowError(Exception):
    """Base of all errors raised by dnnflow; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(DnnflowError, ValueError):
    """What the user gave breaks a rule."""

    exit_code = 2


class DataError(InputError):
    """A table cannot be used: unreadable, malformed, or without a usable label or feature."""

    exit_code = 3


class DamagedError(DataError):
    """A dataset is not as it was written, or cannot be read here: no fault of any design."""


class DesignError(InputError):
    """A design or a space describes no network."""


class PipelineError(InputError):
    """A pipeline description is invalid."""


class NotFoundError(DnnflowError, LookupError):
    """A study, dataset, model or engine of that name does not exist."""

    exit_code = 4


class ClusterError(DnnflowError, RuntimeError):
    """The cluster cannot do what was asked: unreachable, no worker, no worker of that kind."""

    exit_code = 5


class StudyError(DnnflowError, RuntimeError):
    """A study cannot go on: run by somebody else, or every design failed."""

    exit_code = 6


class LostStudyError(StudyError):
    """Another process has taken over a run while this one was suspended or cut off."""


class StudyStopped(StudyError):
    """A study was stopped by request while it was trained; what is stored stays, and it can go on."""

    exit_code = 130


class TimeLimitError(DnnflowError, TimeoutError):
    """A design or a wait passed its time limit."""


class DivergedError(DnnflowError, ArithmeticError):
    """A training's loss became NaN or infinite."""


class StoreError(DnnflowError, RuntimeError):
    """The results store cannot be opened, read or written."""

    exit_code = 7


class StoreAwayError(StoreError):
    """The results store takes nothing at the moment: it is locked, full, or does not answer."""


class OutputError(DnnflowError, OSError):
    """A file cannot be written where it is asked for: no permission, no room, a directory of its name."""

    exit_code = 2


class OutOfMemoryError(DnnflowError, MemoryError):
    """A design needs more memory than its worker may use."""


class LimitError(InputError):
    """Something is larger, longer or more frequent than a server takes."""


class BusyError(LimitError):
    """A server has as much to do at the same time as it takes; later it will take this."""


class ConflictError(InputError):
    """A key or a name was used for something else before."""


class LaunchError(DnnflowError, RuntimeError):
    """A job could not be handed to what runs it."""


class ReadingWarning(UserWarning):
    """Tells how a table of new rows was read where that may not be meant."""
