"""The process that training runs in: its threads, how Python and the C library keep memory, and how much it took."""

from __future__ import annotations

import gc
import os
import resource
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MMAP_THRESHOLD = 32 << 20  # the largest that glibc takes
TRIM_THRESHOLD = (1 << 31) - 1
COLLECT_OFTEN, COLLECT_SELDOM = gc.get_threshold(), (100_000, 20, 100)


def tune_start() -> None:
    """Collect garbage seldom, as a process that begins makes none: while torch is imported, looking through what
    there is again and again takes a tenth of the time."""
    gc.set_threshold(*COLLECT_SELDOM)


def tune_process() -> None:
    """Use OMP_NUM_THREADS threads, keep freed memory for the next step, and look no more for garbage in the libraries.

    A training step allocates and frees the same few megabytes again and again. By default glibc gives blocks of that
    size back to the system at once, and the page faults of getting them anew cost a fifth of the training time on a
    CPU. Where the C library has no `mallopt`, nothing is changed.
    """
    import ctypes

    import torch

    gc.freeze()
    gc.set_threshold(*COLLECT_OFTEN)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads()))
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
    mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)


def peak_memory() -> int:
    """The most memory that this process has had resident, in bytes.

    Where Linux says it: what `resource.getrusage` gives there is at least that of the program that started this one.
    """
    try:
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):  # not Linux, or one that does not say it
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
