"""One training: its engine, its checkpoints, its device, and the run it leaves behind."""
