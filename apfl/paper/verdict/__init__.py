"""The claims as data, and the verdict on each."""
