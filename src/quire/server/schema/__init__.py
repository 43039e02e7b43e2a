"""What is asked (pydantic) and what is answered (msgspec), one file for each API family."""
