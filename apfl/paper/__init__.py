"""The paper's outputs: published numbers, Tables 1-4, Figures 4-5 and the report that holds them."""
