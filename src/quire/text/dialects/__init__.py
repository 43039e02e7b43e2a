"""How model families write reasoning and tool calls into their replies: one file each, chosen by flag or template."""
