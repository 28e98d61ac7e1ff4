"""How long a study takes on this machine: images through the network, times seconds an image."""
