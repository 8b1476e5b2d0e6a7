"""What is kept on disk: whole files and folders, model sources, containers, checkpoints."""
