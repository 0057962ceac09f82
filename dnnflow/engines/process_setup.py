"""Prepare this process for training: threads, a quiet import of TensorFlow, memory that is kept."""

import ctypes
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
_NOTES = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|[IW]0000 |To enable the following instr"
)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's `mallopt`."""
_KEPT_BYTES = 256 * 2**20
"""Free memory at the end of the heap that is not given back."""
_HEAP_BYTES = 32 * 2**20
"""Blocks up to this size come from the heap; the most that glibc takes."""


def limit_threads(n: int = 1) -> bool:
    """Hold TensorFlow and BLAS to `n` threads; a process that trains one design at a time wastes the others.

    Return whether TensorFlow is held: not where it had begun to compute before with other numbers.
    """
    for name in _VARIABLES:
        os.environ[name] = str(n)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    return _limit_tensorflow(n) if "tensorflow" in sys.modules else True


def _limit_tensorflow(n: int) -> bool:
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(n)
        tf.config.threading.set_inter_op_parallelism_threads(n)
    except RuntimeError:  # its pools exist already and cannot be resized
        pass
    return bool(
        tf.config.threading.get_intra_op_parallelism_threads() == n
        and tf.config.threading.get_inter_op_parallelism_threads() == n
    )


def import_tensorflow() -> None:
    """Import TensorFlow and Keras, which write notes to stderr that no log level holds back.

    Notes about a missing GPU and compiled instructions are dropped; whatever else is written meanwhile
    appears once the import is done.
    """
    if "keras" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if platform.machine() in ("x86_64", "AMD64"):
        # By default only where the processor has instructions for neural networks. On one of AVX2 alone
        # batched products ran at 42 GFLOP/s instead of 16, whole stacks 1.6 to 2.2 times faster.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with _without_notes():
        import keras  # noqa: F401
        import tensorflow  # noqa: F401


@contextmanager
def _without_notes() -> Iterator[None]:
    """Hold back what is written to file descriptor 2 (libraries in C++ know no `sys.stderr`)."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            aside.seek(0)
            for line in aside:
                if not _NOTES.match(line):
                    os.write(2, line)


@cache
def keep_freed_memory() -> bool:
    """Keep freed memory in this process, from now on; return whether the C library could be told.

    Dask starts workers with `MALLOC_TRIM_THRESHOLD_=65536`, with which every tensor goes back to the system
    when it is freed, and is mapped and zeroed page by page when the next step wants it. Networks of 3 x 128
    in stacks of 12 took 64 ms each instead of 35, and 150 ms where two workers did so at once.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)) and bool(mallopt(_MMAP_THRESHOLD, _HEAP_BYTES))
