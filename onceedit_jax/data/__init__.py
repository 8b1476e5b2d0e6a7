"""Edit records, unrelated rows, and the check that keeps them apart."""
