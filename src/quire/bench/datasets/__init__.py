"""Where a benchmark's prompts come from."""
