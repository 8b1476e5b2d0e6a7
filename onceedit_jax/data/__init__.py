"""Edit records and unrelated rows: their types, readers, and the check for leaks."""
