"""Meshes, hosts, and bucketed shapes."""
