"""Find NVIDIA GPUs without importing TensorFlow, and give each worker process one of its own."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia/gpus")


def visible_gpus(environment: Mapping[str, str] | None = None, driver: Path = DRIVER) -> tuple[str, ...]:
    """Return the GPUs this process may use, as CUDA_VISIBLE_DEVICES names them.

    What the variable says counts where it is set (empty or -1: none), but never more than there is.
    """
    env = os.environ if environment is None else environment
    present = _count(driver)
    chosen = env.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return tuple(str(index) for index in range(present))
    names = [name.strip() for name in chosen.split(",")]
    # CUDA stops reading at the first invalid entry.
    ends = [position for position, name in enumerate(names) if name in ("", "-1")]
    return tuple(names[: min([present, *ends])])


def _count(driver: Path) -> int:
    if driver.is_dir():
        return len(list(driver.iterdir()))
    command = shutil.which("nvidia-smi")
    if command is None:
        return 0
    try:
        listing = subprocess.run(
            [command, "--list-gpus"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return 0  # a broken driver is no GPU
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())


_claims: list[int] = []
"""Open files whose locks are this process's claims; the system closes them however the process ends."""


def claim_gpu(names: tuple[str, ...], directory: Path | None = None) -> str | None:
    """Take one of the GPUs for this process; None if other workers of this user have them all."""
    base = directory or Path(tempfile.gettempdir())
    for name in names:
        path = base / f"dnnflow-gpu-{os.getuid()}-{name.replace('/', '_')}.lock"
        # The directory may be everybody's: never follow somebody else's link.
        file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            continue
        _claims.append(file)
        return name
    return None
