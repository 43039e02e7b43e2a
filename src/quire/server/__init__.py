"""The HTTP face: OpenAI's API in front of an engine in another process. Never imports torch."""
