"""Config-driven decoder, its families, and how weights come in and go out."""
