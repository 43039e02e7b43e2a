"""How fast it is: prompts, a load generator for any server with the OpenAI API, offline timing, and the numbers."""
