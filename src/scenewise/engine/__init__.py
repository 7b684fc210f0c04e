"""The engine: configuration, one visible training loop, checkpoints, and the run folder they fill."""
