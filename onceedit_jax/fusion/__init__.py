"""Fusion rules: from both models' next-token distributions to one token."""
