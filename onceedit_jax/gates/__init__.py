"""Alpha: how much the plug-in has to say about a prompt."""
