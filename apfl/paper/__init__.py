"""From finished runs to the paper's outputs: tables, figures, verdicts on its claims, and the page that holds them."""
