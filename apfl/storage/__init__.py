"""Whole files, or none: arrays, tensors, tables, run folders and locks."""
