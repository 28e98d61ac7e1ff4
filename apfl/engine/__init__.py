"""Training of models, without a word on federation: images, networks, work, devices, stacks."""
