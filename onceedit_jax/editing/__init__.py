"""The editing stage: one plug-in learns the edits, and when to answer (paper, section 3.1)."""
