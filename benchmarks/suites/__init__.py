"""One federation in several suites, each a program of its own: `python -m benchmarks.suites.NAME --data FILE`."""
