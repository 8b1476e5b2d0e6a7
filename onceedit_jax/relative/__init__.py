"""Relative representations: two vocabularies in the space of their shared tokens."""
