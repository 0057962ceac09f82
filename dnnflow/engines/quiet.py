"""Import TensorFlow without its start-up notes."""

import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_NOTES = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|[IW]0000 |To enable the following instr"
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
