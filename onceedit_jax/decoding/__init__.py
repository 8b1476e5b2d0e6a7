"""Compiled decoding loops, and what prepares their inputs."""
