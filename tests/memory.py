"""Where the data of tests lies."""

from __future__ import annotations

import shutil
from pathlib import Path

ENOUGH_MEMORY = 4 * 1024**3


def fast_directory() -> Path | None:
    """Memory instead of a disk, where there is plenty.

    Each of thousands of writes is flushed, and a shared disk may take seconds for one of them.
    """
    memory = Path("/dev/shm")  # noqa: S108
    if memory.is_dir() and shutil.disk_usage(memory).free > ENOUGH_MEMORY:
        return memory
    return None
