"""How an edit is measured: reliability, generality, locality, portability."""
