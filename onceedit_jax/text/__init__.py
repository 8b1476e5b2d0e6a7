"""Tokens, the text they stand for, and how text crosses from one tokenizer to another."""
