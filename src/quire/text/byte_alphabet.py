"""The printable alphabet in which byte-level vocabularies spell their bytes.

Byte-level BPE writes each of the 256 byte values as one visible character: bytes that are visible in Latin-1 stand for
themselves, the other 68 take the code points from U+0100 up, in order. A space is therefore spelled "Ġ".
Source: GPT-2's encoder (Radford et al., 2019), used unchanged by every byte-level tokenizer since.
"""

from collections.abc import Iterator


def _alphabet() -> Iterator[tuple[str, int]]:
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    substitute = 0x100
    for byte in range(256):
        if byte in visible:
            yield chr(byte), byte
        else:
            yield chr(substitute), byte
            substitute += 1


BYTE_OF: dict[str, int] = dict(_alphabet())
"""Character -> the byte it stands for."""


def spelled_bytes(token: str) -> bytes:
    """The bytes a token spells; a token with any character outside the alphabet is plain text."""
    try:
        return bytes([BYTE_OF[char] for char in token])
    except KeyError:
        return token.encode()
