"""The hub's settings as one typed object, read once in `main()` or a Serve builder and passed down; every field is a variable.

Other capabilities have settings of their own (`aihub/chat/providers/settings.py`, `aihub/recsys/settings.py`,
`aihub/models/configuration.py`). What is read elsewhere is how to start a process or reach a running hub, e.g. `AIHUB_URL`.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, Field, PositiveFloat, PositiveInt, SecretStr, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from aihub.core.limits import AnswerTokens, Temperature, TopK, TopP
from aihub.core.typed_configuration import EnvironmentSettings

LOOPBACK_NAME = "localhost"
ANY = "*"

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)(?:%[^\]\[]{1,64})?\]|([^\[\]:@/?#\s]+))(?::(\d{0,5}))?")


def read_host(header: str) -> str | None:
    """Return the name or address in a `Host` header, lower-case and without port; None when it is none."""
    found = _HOST.fullmatch(header)
    if found is None:
        return None
    if found[1] is not None:
        return found[1].lower() if _is_address(found[1]) else None
    name = found[2].lower().removesuffix(".")
    return name if _is_address(name) or _is_name(name) else None


@lru_cache(maxsize=1024)
def is_allowed(host: str, allowed: tuple[str, ...]) -> bool:
    """Whether a host of `read_host` is an address, `localhost` or one of `allowed`, where `*.example.org` means all below it."""
    if host == LOOPBACK_NAME or _is_address(host) or host in allowed or ANY in allowed:
        return True
    return any(pattern.startswith("*.") and host.endswith(pattern[1:]) for pattern in allowed)


def parse_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return names as a `Host` header has them; of names outside ASCII (`máy.vn`) the form that browsers send.

    Raises:
        ValueError: One is no name.
    """
    return tuple(dict.fromkeys(_parse_name(name.strip()) for name in names if name.strip()))


def own_names() -> tuple[str, ...]:
    """Return the names of this machine: the one it has, its first part, and that in the local network."""
    name = socket.gethostname().lower().removesuffix(".")
    first = name.split(".", 1)[0]
    return tuple(candidate for candidate in dict.fromkeys((name, first, f"{first}.local")) if _is_name(candidate))


def is_loopback(listen_host: str) -> bool:
    """Whether only this machine reaches what listens on `listen_host`."""
    return listen_host == LOOPBACK_NAME or (_is_address(listen_host) and ipaddress.ip_address(listen_host).is_loopback)


def _parse_name(name: str) -> str:
    if name == ANY:
        return name
    prefix, bare = ("*.", name[2:]) if name.startswith("*.") else ("", name)
    bare = bare.lower().removesuffix(".")
    if not bare.isascii():
        try:
            bare = bare.encode("idna").decode("ascii")
        except UnicodeError as error:
            raise ValueError(f"{name!r} is no host name") from error
    if not _is_name(bare):
        raise ValueError(f"{name!r} is no host name; give names alone, without scheme, port or path, such as hub.example.org")
    return prefix + bare


def _is_name(name: str) -> bool:
    return len(name) <= 253 and all(_LABEL.fullmatch(label) for label in name.split("."))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


MIN_CONTEXT_TOKENS = 256
"""Smallest MAX_LENGTH: a question and a short answer need that much."""


class Settings(EnvironmentSettings):
    """Where state lives, which stores to use and the limits of one request.

    Raises:
        ConfigurationError: A variable has a wrong value; the message names each.
    """

    earlier_variables = {"LLM_MODEL_PATH": "chat_model", "VOSK_MODEL_PATH": "speech_model"}
    model_config = SettingsConfigDict(env_prefix="AIHUB_", extra="ignore", frozen=True, env_ignore_empty=True)

    home: Path = Field(default=Path(".aihub"), description="State folder; everything the hub writes lies under it.")
    profile: str | None = Field(
        default=None, description="Hardware profile name in configs/profiles; chosen by the machine when unset."
    )
    database_url: SecretStr | None = Field(
        default=None,
        validation_alias="DATABASE_URL",
        description="PostgreSQL 14+ with pgvector 0.8.2+; an embedded server when unset.",
    )
    redis_url: SecretStr | None = Field(
        default=None, validation_alias="REDIS_URL", description="Redis 6+; an embedded server when unset."
    )

    chat_model: str | None = Field(default=None, description="Folder or hub id of the chat model; overrides the profile's.")
    chat_model_id: str | None = Field(
        default=None, description="Name clients use for AIHUB_CHAT_MODEL; its last path part when unset."
    )
    embedding_model: str | None = Field(
        default=None, description="Folder or hub id of a sentence-transformers model; overrides the profile's."
    )
    embedding_model_id: str | None = Field(
        default=None, description="Name clients use for AIHUB_EMBEDDING_MODEL; its last path part when unset."
    )

    speech_model: Path | None = Field(
        default=None, description="Folder of a Vosk model, or of several; listed beside those in the state folder."
    )

    assistants: Path | None = Field(default=None, description="YAML file of assistants; `configs/assistants.yaml` when unset.")

    caption_language: str = Field(
        default="en", pattern="^[a-z]{2}$", description="Language of the captions by which images in vector stores are found."
    )

    models_memory_gb: PositiveFloat | None = Field(
        default=None, description="GiB that local chat models may take together; most of the device when unset."
    )

    default_max_tokens: AnswerTokens | None = Field(
        default=None,
        validation_alias="DEFAULT_MAX_TOKENS",
        description="Most tokens a local model answers with where the request says nothing.",
    )
    default_temperature: Temperature | None = Field(
        default=None,
        validation_alias="DEFAULT_TEMPERATURE",
        description="Temperature of local models where the request says nothing.",
    )
    default_top_p: TopP | None = Field(
        default=None, validation_alias="DEFAULT_TOP_P", description="top_p of local models where the request says nothing."
    )
    default_top_k: TopK | None = Field(
        default=None, validation_alias="DEFAULT_TOP_K", description="top_k of local models where the request says nothing."
    )
    max_length: int | None = Field(
        default=None,
        ge=MIN_CONTEXT_TOKENS,
        validation_alias="MAX_LENGTH",
        description="Longest context of local models, prompt plus answer in tokens; replaces the profile's.",
    )
    dashboard_modules: str = Field(
        default="JobHead,NodeHead,ReportHead,ServeHead,StateHead",
        description="Parts of the Ray dashboard, each started by the first look at it; `all` starts every one with the hub.",
    )

    openai_api_key: SecretStr | None = Field(
        default=None, validation_alias="OPENAI_API_KEY", description="Key of OpenAI or the service at OPENAI_BASE_URL."
    )
    github_token: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("GITHUB_MODELS_TOKEN", "GITHUB_TOKEN"),
        description="Key of GitHub Models.",
    )
    local_llm_api_key: SecretStr | None = Field(
        default=None, validation_alias="LOCAL_LLM_API_KEY", description="Key of the service at LOCAL_LLM_API_URL."
    )

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Names, separated by commas, that the hub is reached by; localhost and addresses always work.",
    )
    max_json_bytes: PositiveInt = Field(default=4 * 2**20, description="Largest JSON body.")
    max_chat_bytes: PositiveInt = Field(
        default=32 * 2**20, description="Largest JSON body of a chat request, which may carry images and recordings in base64."
    )
    remote_media_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Hosts, separated by commas, that images and videos of chat requests may be fetched from; `*` for any.",
    )
    media_processes: PositiveInt = Field(
        default=2, description="Images and videos that each replica of the ingress decodes at a time."
    )
    max_upload_bytes: PositiveInt = Field(default=64 * 2**20, description="Largest uploaded file.")
    max_audio_bytes: PositiveInt = Field(default=128 * 2**20, description="Largest audio file of a transcription.")
    body_timeout_s: PositiveFloat = Field(default=30.0, description="Longest wait for the next piece of a request body.")
    chat_timeout_s: PositiveFloat = Field(default=600.0, description="Longest answer, streamed or not.")
    load_wait_s: PositiveFloat = Field(
        default=50.0,
        description="Longest wait of an answer that is not streamed for its model's load; most proxies cut silence at 60 s.",
    )
    transcription_timeout_s: PositiveFloat = Field(default=3600.0, description="Longest transcription, streamed or not.")
    live_idle_timeout_s: PositiveFloat = Field(default=45.0, description="Longest silence of a client of `/v1/audio/stream`.")
    live_timeout_s: PositiveFloat = Field(default=14_400.0, description="Longest connection to `/v1/audio/stream`.")
    storage_timeout_s: PositiveFloat = Field(default=2.0, description="Longest wait for a PostgreSQL connection.")
    cache_timeout_s: PositiveFloat = Field(default=0.25, description="Longest wait for Redis before it counts as a miss.")

    @field_validator("allowed_hosts", "remote_media_hosts", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        return parse_names(value.split(",") if isinstance(value, str) else value)

    @cached_property
    def home_path(self) -> Path:
        """State folder, absolute, so that every Ray worker means the same place."""
        return self.home.expanduser().resolve()

    @property
    def models_path(self) -> Path:
        """Folder of installed model folders."""
        return self.home_path / "models"
