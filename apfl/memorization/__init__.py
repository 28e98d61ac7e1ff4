"""The paper's own idea: the semantic generator, and the friends that learn from its images."""
