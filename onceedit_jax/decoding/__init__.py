"""Compiled decoding loops: greedy text, fused text, drafts, and where an answer ends."""
