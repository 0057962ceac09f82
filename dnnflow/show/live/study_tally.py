"""Count a study's trials as they come, in memory that does not grow with the study."""

import math
import threading
import time
from collections import Counter
from collections.abc import Sequence

from dnnflow.events import TrialResult
from dnnflow.show.run_numbers import StudyNumbers, pace_of

MOST_CELLS = 1_500
"""Cells of hidden layers × accuracy that are kept; where there would be more, cells are made larger."""
MOST_MOMENTS = 600
"""Moments that are kept of progress; of more, every other is dropped."""
FIRST_CELL = (1, 0.005)
"""Hidden layers and accuracy that a cell spans at first."""
MOST_KINDS = 12
"""Kinds of failures that are shown."""


class StudyTally:
    """Written by the thread that stores trials, read by any.

    Parameters
    ----------
    total
        Designs of the study.
    about
        Names and values for a person.
    """

    def __init__(self, total: int, about: tuple[tuple[str, str], ...] = ()) -> None:
        self._total, self._about = total, about
        self._lock = threading.Lock()
        self._completed = self._failed = self._before = 0
        self._best: list[tuple[int, float]] = []
        self._best_design = ""
        self._cells: Counter[tuple[int, int]] = Counter()
        self._size = FIRST_CELL
        self._failures: Counter[str] = Counter()
        self._start_s = time.monotonic()
        self._moments: list[tuple[float, float]] = [(0.0, 0.0)]

    def add(self, results: Sequence[TrialResult]) -> None:
        """Count trials."""
        with self._lock:
            for depth, accuracy, error, describe in results:
                if accuracy is None:
                    self._failed += 1
                    self._failures[error or "lost"] += 1
                    continue
                self._completed += 1
                if not self._best or accuracy > self._best[-1][1]:
                    self._best.append((self._completed + self._failed, accuracy))
                    self._best_design = describe()
                if depth is not None:
                    self._cells[depth // self._size[0], math.floor(accuracy / self._size[1] + 1e-9)] += 1
                    if len(self._cells) > MOST_CELLS:
                        self._coarsen()

    def begin(self) -> None:
        """Count time, and trials a second, from now on: what was added before is of an earlier run."""
        with self._lock:
            self._before = self._completed + self._failed
            self._start_s = time.monotonic()

    def tick(self) -> None:
        """Note how many trials there are by now."""
        with self._lock:
            self._moments.append((self._elapsed_s, float(self._completed + self._failed - self._before)))
            if len(self._moments) > MOST_MOMENTS:
                self._moments = self._moments[::2]

    def numbers(self) -> StudyNumbers:
        """Return what is shown of the study now."""
        self.tick()
        with self._lock:
            depths, height = self._size
            return StudyNumbers(
                about=self._about,
                elapsed_s=self._elapsed_s,
                total=self._total,
                completed=self._completed,
                failed=self._failed,
                best_design=self._best_design,
                best=tuple(self._best),
                pace=tuple(pace_of(self._moments)),
                cells=tuple((x * depths, y * height, count) for (x, y), count in self._cells.items()),
                cell_size=self._size,
                failures=tuple(self._failures.most_common(MOST_KINDS)),
            )

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._start_s

    def _coarsen(self) -> None:
        """Make cells twice as large: higher first, and wider where they are high enough."""
        depths, height = self._size
        wider, higher = (2, 1) if height >= 4 * FIRST_CELL[1] * depths else (1, 2)
        merged: Counter[tuple[int, int]] = Counter()
        for (x, y), count in self._cells.items():
            merged[x // wider, y // higher] += count
        self._cells, self._size = merged, (depths * wider, height * higher)
