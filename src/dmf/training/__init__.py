"""One training: the engine, its checkpoints, the device it runs on, and the run it leaves behind."""
