"""What an API key looks like, how a request carries it, and what is kept of it.

`aihub_<prefix>_<secret>`: the prefix names the key in tables and logs, the secret is 256 random bits. A secret of that size
cannot be guessed from its digest, so a fast hash is enough.
"""

import hashlib
import re
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from aihub.core.errors import AuthenticationError

_PREFIX_CHARACTERS = string.ascii_lowercase + string.digits
PREFIX_LENGTH = 8
_SECRET_BYTES = 32
SECRET_LENGTH = 43
_KEY = re.compile(r"aihub_([a-z0-9]{8})_([A-Za-z0-9_-]{43})", re.ASCII)
_HOW = "Send it as `Authorization: Bearer $AIHUB_API_KEY`"
_HOW_TO_MAKE = "`aihub keys create --name NAME` on the hub's machine makes one"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A whole key.

    Attributes:
        text: What its owner keeps; the only place where the secret is.
    """

    prefix: str
    text: str = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        """Return a key nobody has."""
        prefix = "".join(secrets.choice(_PREFIX_CHARACTERS) for _ in range(PREFIX_LENGTH))
        return cls(prefix, f"aihub_{prefix}_{secrets.token_urlsafe(_SECRET_BYTES)}")

    @property
    def key_id(self) -> str:
        """The public name of the key."""
        return f"key_{self.prefix}"

    def digest(self) -> bytes:
        """Return the 32 bytes of SHA-256 that are kept."""
        return hashlib.sha256(self.text.encode()).digest()


def parse_key(text: str) -> ApiKey | None:
    """Return the key that a text is as a whole; None when it is none."""
    found = _KEY.fullmatch(text)
    return None if found is None else ApiKey(found[1], text)


def read_key(authorization: Sequence[str]) -> ApiKey:
    """Return the key of a request.

    Args:
        authorization: All values of its Authorization header, as sent.

    Raises:
        AuthenticationError: There is no value (`missing_api_key`), more than one, another scheme, or no key of this hub; the
            message never repeats what was sent.
    """
    if not authorization:
        raise AuthenticationError(f"The request has no API key. {_HOW}; {_HOW_TO_MAKE}.", code="missing_api_key")
    if len(authorization) > 1:
        raise AuthenticationError("The request has more than one Authorization header; send exactly one.")
    scheme, _, credentials = authorization[0].strip(" \t").partition(" ")
    if scheme.lower() != "bearer":
        raise AuthenticationError(f"The Authorization header has another scheme than Bearer. {_HOW}.")
    key = parse_key(credentials.strip(" \t"))
    if key is None:
        raise AuthenticationError(
            f"That is no API key of this hub: they begin with aihub_. {_HOW_TO_MAKE[0].upper()}{_HOW_TO_MAKE[1:]}."
        )
    return key
