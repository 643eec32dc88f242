"""One stored answer as bytes: a version byte, a checksum, and JSON.

What does not decode is no answer: it was damaged, belongs to another version of the hub, or was written by somebody else.
"""

import hashlib
import json
from collections.abc import Sequence

FORMAT = b"\x01"
_CHECKSUM_BYTES = 16
_HEAD_BYTES = len(FORMAT) + _CHECKSUM_BYTES


def encode_entry(key: str, pieces: Sequence[str]) -> bytes:
    """Return the bytes of an answer; the checksum covers the key, so that they are an answer to no other one."""
    body = json.dumps(list(pieces), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return FORMAT + _checksum(key, body) + body


def decode_entry(key: str, data: bytes) -> tuple[str, ...] | None:
    """Return the pieces, or None for bytes that `encode_entry` did not make for this key."""
    if data[: len(FORMAT)] != FORMAT or data[len(FORMAT) : _HEAD_BYTES] != _checksum(key, data[_HEAD_BYTES:]):
        return None
    try:
        pieces = json.loads(data[_HEAD_BYTES:].decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(pieces, list) or not pieces or not all(isinstance(piece, str) for piece in pieces):
        return None
    return tuple(pieces)


def _checksum(key: str, body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_CHECKSUM_BYTES, key=key.encode()[:64]).digest()
