"""What the method does: one file a study, run by `python -m experiments NAME`."""
