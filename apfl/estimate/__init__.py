"""How long a study takes on this machine."""
