"""An HTTP server that any client of OpenAI's interface can ask; its edits come and go meanwhile."""
