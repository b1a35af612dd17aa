"""Foundation of every room: configuration, artefacts, stages, seeds, devices, checkpoints."""
