"""Hold the numeric libraries of this process to a number of threads."""

import os
import sys

_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


def limit_threads(n: int = 1) -> bool:
    """Hold TensorFlow and BLAS to `n` threads; a process that trains one design at a time wastes the others.

    Returns
    -------
    bool
        Whether TensorFlow is held; False where it had begun to compute before with other numbers.
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
