"""Harm: what happens to files on a disk, one after the other."""

from collections.abc import Iterator


def harmed(content: bytes, every: int = 1) -> Iterator[bytes]:
    """The content with one bit flipped in each ``every``-th byte, cut at as many places, empty, and other."""
    for index in range(0, len(content), every):
        flipped = bytearray(content)
        flipped[index] ^= 1 << (index // every % 8)
        yield bytes(flipped)
        yield content[:index]
    yield from (b"", b"no such file", b"\x93NUMPY\x01\x00", b"PK\x05\x06" + bytes(18))
