"""Seeded fuzzing: damaged and hostile inputs of every format that is read, in bounded processes."""
