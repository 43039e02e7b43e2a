"""One file for each API family: its handlers, and the ENDPOINTS that describe them."""
