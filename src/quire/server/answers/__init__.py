"""From what the engine says to what a client reads: one file for each shape of answer."""
