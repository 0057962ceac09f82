"""Whether a process that trains many designs keeps growing."""

import psutil

from peers.common import Task, train_here

MARKS = 10


def measure(task: Task) -> None:
    """Print this process's resident memory after each tenth of the designs."""
    process = psutil.Process()
    step = max(1, task.n_designs // MARKS)
    sizes: list[float] = []
    for count, _ in enumerate(train_here(task), start=1):
        if count % step == 0:
            sizes.append(process.memory_info().rss / 1e6)
            print(f"{count:8,} designs {sizes[-1]:9.0f} MB resident", flush=True)
    half = sizes[len(sizes) // 2 :]
    growth = (half[-1] - half[0]) / max(1, len(half) - 1)
    print(f"growth over the second half: {growth:+.1f} MB for {step:,} designs, engine {task.engine}")
