"""An object as bytes and arrays, which travel as they are and are not copied when it is unpacked."""

import pickle
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np


@dataclass(frozen=True, eq=False)
class Parcel:
    """A pickled object whose arrays lie beside it.

    Unpickling may need what a process has not imported yet (Keras, a user's modules): only `open` does it.
    """

    data: bytes
    arrays: tuple[np.ndarray, ...]
    """Their bytes."""

    @classmethod
    def of(cls, thing: Any) -> "Parcel":
        """Pack an object; its arrays are not copied."""
        buffers: list[pickle.PickleBuffer] = []
        data = cloudpickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
        return cls(data, tuple(np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers))

    def open(self) -> Any:
        """Return the object; its arrays lie in the parcel's memory and may be read-only."""
        return pickle.loads(self.data, buffers=self.arrays)
