"""Edit one small language model once; every target LLM answers with the new facts."""
