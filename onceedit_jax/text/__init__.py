"""Tokenizers, vocabularies, anchors, and the translation of text between two tokenizers."""
