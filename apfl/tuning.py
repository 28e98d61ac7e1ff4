"""Settings of the process that training runs in: threads, and how the C library keeps memory."""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MMAP_THRESHOLD = 32 << 20  # the largest that glibc takes
TRIM_THRESHOLD = (1 << 31) - 1


def tune_process() -> None:
    """Use OMP_NUM_THREADS threads, and keep freed memory for the next step.

    A training step allocates and frees the same few megabytes again and again. By default glibc gives blocks of that
    size back to the system at once, and the page faults of getting them anew cost a fifth of the training time on a
    CPU. Where the C library has no `mallopt`, nothing is changed.
    """
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads()))
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
    mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
