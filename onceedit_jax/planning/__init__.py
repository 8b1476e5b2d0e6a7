"""Memory, compute and speed of a model pair, estimated without its weights or hardware."""
