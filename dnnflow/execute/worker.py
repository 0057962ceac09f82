"""Make a worker fit for training, as a Dask preload.

`dask worker ADDRESS --nworkers=-1 --nthreads 1 --preload dnnflow.execute.worker` starts one a core.
"""

import os
from typing import TYPE_CHECKING

from dnnflow.execute.gpus import claim_gpu, visible_gpus

if TYPE_CHECKING:
    from distributed import Worker

ENVIRONMENT = {
    # One thread of arithmetic a worker process: as many processes as cores train at the same time.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    # Notes about missing GPUs and compiled instructions, once a process.
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
"""What TensorFlow and BLAS read when they are first imported."""


def dask_setup(worker: "Worker") -> None:
    """Keep TensorFlow and BLAS to one thread, and declare a GPU where this process has one.

    Called by Dask before the worker registers. Resources given by hand (`--resources GPU=1`) stand as they
    are.
    """
    os.environ.update(ENVIRONMENT)
    if "GPU" in worker.state.total_resources:
        return
    gpu = claim_gpu(visible_gpus())
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        worker.state.total_resources["GPU"] = 1
        worker.state.available_resources["GPU"] = 1
