"""Data sets as artefacts: where images come from, and how they are shared among clients."""
