"""Names of adapters: `base:name@v3` is one version, `base:name` the promoted one.

The id of the base may hold `:` and `/` itself (`llama2:7b`), so a name is read from its right end.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from aihub.core.errors import InvalidRequestError

NAME_CHARS: Final = 40

_NAME = re.compile(rf"[a-z0-9][a-z0-9-]{{0,{NAME_CHARS - 1}}}")
_ID = re.compile(rf"(?P<base>.+):(?P<name>{_NAME.pattern})(?:@v(?P<version>[1-9][0-9]{{0,8}}))?", re.DOTALL)


@dataclass(frozen=True, slots=True, order=True)
class AdapterId:
    """What an adapter is called.

    Attributes:
        base: The hub's id of the model it belongs to.
        name: See `is_name`.
        version: From 1; None is the promoted version, whichever that is.
    """

    base: str
    name: str
    version: int | None = None

    def __str__(self) -> str:
        return self.alias if self.version is None else f"{self.alias}@v{self.version}"

    @property
    def alias(self) -> str:
        """The name that stands for the promoted version."""
        return f"{self.base}:{self.name}"


def is_name(text: str) -> bool:
    """Whether `text` may be an adapter's name: small letters, digits and `-`, at most `NAME_CHARS`."""
    return _NAME.fullmatch(text) is not None


def find_adapter_id(text: str) -> AdapterId | None:
    """Read an id or alias; None where `text` cannot be one. A model of this very name may exist all the same."""
    match = _ID.fullmatch(text)
    if match is None:
        return None
    version = match["version"]
    return AdapterId(match["base"], match["name"], None if version is None else int(version))


def parse_adapter_id(text: str) -> AdapterId:
    """Read an id or alias.

    Raises:
        InvalidRequestError: It is none; the message says what is expected.
    """
    found = find_adapter_id(text)
    if found is None:
        raise InvalidRequestError(
            "This is no name of an adapter. Write it like smollm2-135m-instruct:shop@v1, or smollm2-135m-instruct:shop for the "
            "promoted version.",
            param="adapter_id",
            code="invalid_adapter_id",
        )
    return found


def parse_version_id(text: str) -> AdapterId:
    """Read an id that names a version.

    Raises:
        InvalidRequestError: It is none, or an alias.
    """
    found = parse_adapter_id(text)
    if found.version is None:
        raise InvalidRequestError(
            f"{text} stands for whichever version is promoted. Name the version, like {text}@v1.",
            param="adapter_id",
            code="invalid_adapter_id",
        )
    return found


def name_of_suffix(text: str) -> str:
    """Turn the suffix of a job into a name: small letters without marks, anything else a `-`.

    Raises:
        InvalidRequestError: Nothing is left of it.
    """
    plain = unicodedata.normalize("NFD", text.replace("đ", "d").replace("Đ", "D")).lower()
    letters = "".join(character for character in plain if not unicodedata.combining(character))
    name = re.sub(r"[^a-z0-9]+", "-", letters).strip("-")[:NAME_CHARS].strip("-")
    if not name:
        raise InvalidRequestError(
            "The suffix has no letter or digit that a name may have; use letters a-z and digits.", param="suffix"
        )
    return name
