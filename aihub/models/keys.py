"""Model keys: `provider:name`, the one way a model is named in the catalogue, the API and the command line.

    package:smollm2                     weights inside an installed Python package
    local:shop-assistant                a folder under the state folder's `models`
    hf:Qwen/Qwen2.5-0.5B-Instruct       a Hugging Face hub id
    ollama:gemma2:9b                    a model of an Ollama server, tag included (`latest` when left out)
    vosk:vi                             a speech model
    openai:gpt-4o-mini                  a model of an OpenAI-compatible service
    github:openai/gpt-4o-mini           a model of GitHub Models

A key is never a path or an address: what a name may contain leaves no room for one.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args

from pydantic import PlainSerializer, PlainValidator

from aihub.core.errors import HubError, InvalidRequestError

Provider = Literal["package", "local", "hf", "ollama", "vosk", "openai", "github"]
PROVIDERS: Final[tuple[Provider, ...]] = get_args(Provider)
REMOTE_PROVIDERS: Final[frozenset[Provider]] = frozenset({"openai", "github"})
"""Models of these are used over the network and never installed."""

MAX_KEY_CHARS = 200
DEFAULT_TAG = "latest"

_LOWER = r"[a-z0-9](?:[a-z0-9._-]{0,94}[a-z0-9])?"
_MIXED = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_NAMES: Final[dict[Provider, tuple[re.Pattern[str], str]]] = {
    "package": (re.compile(_LOWER), "package:smollm2"),
    "local": (re.compile(_MIXED), "local:shop-assistant"),
    "hf": (re.compile(rf"{_MIXED}/{_MIXED}"), "hf:Qwen/Qwen2.5-0.5B-Instruct"),
    "ollama": (re.compile(rf"(?:{_LOWER}/)?{_LOWER}(?::{_MIXED})?"), "ollama:gemma2:9b"),
    "vosk": (re.compile(_LOWER), "vosk:vi"),
    "openai": (re.compile(rf"{_MIXED}(?:/{_MIXED}){{0,2}}"), "openai:gpt-4o-mini"),
    "github": (re.compile(rf"(?:{_MIXED}/)?{_MIXED}"), "github:openai/gpt-4o-mini"),
}
# File names that mean devices on Windows, whatever follows the first dot.
_DEVICES = re.compile(r"(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")


@dataclass(frozen=True, slots=True, order=True)
class ModelKey:
    """One model. Equal keys mean the same model.

    Attributes:
        provider: Who has it.
        name: Its name there, with the tag where the provider has tags.

    Raises:
        InvalidRequestError: The name does not fit the provider's grammar; code `invalid_model_key`.
    """

    provider: Provider
    name: str

    def __post_init__(self) -> None:
        _check(self.provider, self.name)
        if self.provider == "ollama" and ":" not in self.name:
            object.__setattr__(self, "name", f"{self.name}:{DEFAULT_TAG}")

    def __str__(self) -> str:
        return f"{self.provider}:{self.name}"

    @property
    def slug(self) -> str:
        """A folder name of this key alone, also where the file system ignores case.

        `--` and `@` cannot occur in names, so replacing `/` and `:` by them keeps names apart; capitals get a hash.
        """
        plain = f"{self.provider}--{self.name.replace('/', '--').replace(':', '@')}"
        if plain == plain.lower():
            return plain
        return f"{plain.lower()}~{hashlib.sha256(plain.encode()).hexdigest()[:12]}"

    @property
    def is_remote(self) -> bool:
        """Whether the model runs at a service elsewhere, so that nothing of it is installed."""
        return self.provider in REMOTE_PROVIDERS


def parse_key(text: str) -> ModelKey:
    """Return the key that `text` spells.

    Raises:
        InvalidRequestError: It is none; the message says what is expected.
    """
    provider, colon, name = text.partition(":")
    if len(text) > MAX_KEY_CHARS:
        raise _refuse(f"it has {len(text)} characters, and a key has at most {MAX_KEY_CHARS}", "hf:Qwen/Qwen2.5-0.5B-Instruct")
    if not colon or provider not in PROVIDERS:
        raise _refuse(f"it must start with one of {', '.join(known + ':' for known in PROVIDERS)}", "ollama:gemma2:9b")
    return ModelKey(provider, name)


def _check(provider: Provider, name: str) -> None:
    pattern, example = _NAMES[provider]
    if len(provider) + 1 + len(name) > MAX_KEY_CHARS:
        raise _refuse(f"a key has at most {MAX_KEY_CHARS} characters", example)
    if not name:
        raise _refuse(f"the name after {provider}: is missing", example)
    if pattern.fullmatch(name) is None or ".." in name or "--" in name:
        raise _refuse(f"the name after {provider}: is not one", example)
    if any(_DEVICES.fullmatch(part) for part in re.split("[/:]", name)):
        raise _refuse("part of its name is reserved", example)


def _refuse(reason: str, example: str) -> InvalidRequestError:
    # The text itself stays out of the message: it may hold control characters or be very long.
    return InvalidRequestError(f"This is no model key: {reason}. Write it like {example}.", param="key", code="invalid_model_key")


def _validate(value: object) -> ModelKey:
    if isinstance(value, ModelKey):
        return value
    if not isinstance(value, str):
        raise ValueError("a model key is a text such as ollama:gemma2:9b")
    try:
        return parse_key(value)
    except HubError as error:
        raise ValueError(error.message) from error


_serialize: Callable[[ModelKey], str] = str

KeyField = Annotated[
    ModelKey, PlainValidator(_validate, json_schema_input_type=str), PlainSerializer(_serialize, return_type=str)
]
"""A `ModelKey` as a field of a pydantic model, written as text."""
