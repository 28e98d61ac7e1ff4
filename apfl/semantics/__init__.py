"""Semantic embeddings of class names: language models, tables, and controls that carry no meaning."""
