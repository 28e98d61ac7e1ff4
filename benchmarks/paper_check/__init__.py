"""The paper against itself: what its printed numbers say of each other and of its text. No run of this suite enters.

``python -m benchmarks.paper_check`` writes docs/paper-check.md, and its numbers as docs/measurements/paper_check.csv.
"""
