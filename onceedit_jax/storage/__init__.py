"""Files and folders on disk: atomic writes, model sources, the GGUF format, checkpoints."""
