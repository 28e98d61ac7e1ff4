"""One federation in several suites, each a program of its own: `python -m benchmarks.suites.NAME --data FILE`."""

import time

BEGAN = time.perf_counter()
"""When the program began, as this package is imported before all else."""
