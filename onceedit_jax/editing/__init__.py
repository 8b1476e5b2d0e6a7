"""The editing stage: one plug-in learns the facts and when to speak (paper, section 3.1)."""
