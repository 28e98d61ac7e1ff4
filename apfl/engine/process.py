"""The process that training runs in: its threads, how Python and the C library keep memory, and how much it took."""

from __future__ import annotations

import gc
import math
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from apfl.storage.locks import busy

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MMAP_THRESHOLD = 32 << 20  # the largest that glibc takes
TRIM_THRESHOLD = (1 << 31) - 1
COLLECT_OFTEN, COLLECT_SELDOM = gc.get_threshold(), (100_000, 20, 100)


def tune_start() -> None:
    """Collect garbage seldom, as a process that begins makes none: while torch is imported, looking through what
    there is again and again takes a tenth of the time."""
    gc.set_threshold(*COLLECT_SELDOM)


def tune_process() -> None:
    """Use OMP_NUM_THREADS threads, or as many as there are cores for us, and of several GPUs one that is free; keep
    freed memory for the next step, and look no more for garbage in the libraries.

    A training step allocates and frees the same few megabytes again and again. By default glibc gives blocks of that
    size back to the system at once, and the page faults of getting them anew cost a fifth of the training time on a
    CPU. Where the C library has no `mallopt`, nothing is changed.
    """
    import ctypes

    import torch

    gc.freeze()
    gc.set_threshold(*COLLECT_OFTEN)
    torch.set_num_threads(threads(os.environ.get("OMP_NUM_THREADS", ""), torch.get_num_threads()))
    own_gpu(torch.cuda.device_count())
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
    mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)


def threads(asked: str, usual: int) -> int:
    """How many threads to compute with: the first number of OMP_NUM_THREADS, which may be a list (4,2), or what is
    ``usual``, as far as there are cores."""
    number = re.match(r"\s*0*([1-9]\d{0,5})\s*(,|$)", asked)
    return int(number[1]) if number else max(1, min(usual, cores()))


def cores(groups: str | os.PathLike[str] = "/sys/fs/cgroup") -> int:
    """How many cores this process may use, which in a container are fewer than the machine has: those that it is bound
    to, and no more than its control group's share of time is worth (version 2, or 1)."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join(Path(groups, name).read_text() for name in names).split()
            if int(quota) > 0:  # "max", or -1, is no limit
                bound = min(bound, math.ceil(int(quota) / int(period)))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return max(1, bound)


def own_gpu(there: int) -> None:
    """Of several GPUs show this process one that no other one has taken, before any is used."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = map(str, range(there)) if visible is None else map(str.strip, visible.split(","))
    names = list(named)[:there]  # what follows a name that there is not, such as -1, CUDA leaves out
    if len(names) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = take(names, Path(tempfile.gettempdir(), f"apfl-gpus-{os.getuid()}"))


def take(names: Sequence[str], folder: Path) -> str:
    """The first of ``names`` that no other process has taken, which is ours until we end; one of them if none is left,
    or if there are no locks."""
    for name in names:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(folder / re.sub(r"\W", "_", name), os.O_RDWR | os.O_CREAT, 0o600)
            if not busy(handle):
                return name
            os.close(handle)
        except OSError:
            break
    return names[os.getpid() % len(names)]


def peak_memory() -> int:
    """The most memory that this process has had resident, in bytes.

    Where Linux says it: what `resource.getrusage` gives there is at least that of the program that started this one.
    """
    try:
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):  # not Linux, or one that does not say it
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
