"""Virtual time: who trains when, and what the server merges. Nothing here needs torch."""
