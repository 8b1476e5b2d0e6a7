"""Reliability, generality, locality, portability: how an edit is measured."""
