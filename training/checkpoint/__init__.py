"""Checkpoints: verified files, what is kept of a state, and those of a run."""
