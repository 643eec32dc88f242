"""Settings that change while the hub runs: one typed document.

Three layers, later ones win: environment variables, `config.json` in the state folder, `configure` (which writes
`config.json`). A change is one rename, and who changed what is kept as JSON lines beside the file.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError, field_validator

from aihub.core.errors import ConfigurationError, InvalidRequestError
from aihub.core.files import append_line, hold_lock, write_document
from aihub.models.keys import ModelKey

ChatProvider = Literal["local", "openai", "ollama", "github"]

CONFIGURATION_NAME = "config.json"
AUDIT_NAME = "config-audit.jsonl"

ENVIRONMENT: Final[dict[str, tuple[str, ...]]] = {
    "max_concurrent_downloads": ("MAX_CONCURRENT_DOWNLOADS",),
    "model_download_timeout_s": ("MODEL_DOWNLOAD_TIMEOUT",),
    "auto_setup_enabled": ("AUTO_SETUP_ENABLED",),
    "download_models_on_start": ("DOWNLOAD_MODELS_ON_START",),
    "model_unload_timeout_s": ("MODEL_UNLOAD_TIMEOUT",),
    "model_sleep_timeout_s": ("MODEL_SLEEP_TIMEOUT",),
    "max_concurrent_models": ("MAX_CONCURRENT_MODELS",),
    "min_residency_s": ("MIN_RESIDENCY",),
    "download_proxy": ("DOWNLOAD_PROXY",),
    "llm_provider": ("LLM_PROVIDER", "PREFERRED_AI_PROVIDER"),
    "local_llm_api_url": ("LOCAL_LLM_API_URL",),
    "openai_base_url": ("OPENAI_BASE_URL",),
    # OLLAMA_HOST comes last: where an Ollama server runs beside the hub, it says where that listens.
    "ollama_url": ("OLLAMA_URL", "OLLAMA_BASE_URL", "OLLAMA_HOST"),
    "ollama_model": ("OLLAMA_MODEL",),
    "github_base_url": ("GITHUB_BASE_URL",),
    "provider_timeout_s": ("PROVIDER_TIMEOUT",),
    "fallback_order": ("FALLBACK_ORDER",),
    "preferred_model": ("PREFERRED_MODEL",),
}
"""Environment variables of each setting; the first that is set and not empty counts."""

ADDRESSES: Final = frozenset({"download_proxy", "local_llm_api_url", "openai_base_url", "ollama_url", "github_base_url"})
"""Settings that say where the hub connects to. No request may change them: keys and documents go there."""


class HubConfiguration(BaseModel):
    """Run-time settings; times in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_concurrent_downloads: PositiveInt = Field(default=2, le=16, description="Downloads at a time; others wait.")
    model_download_timeout_s: PositiveFloat = Field(default=3600.0, description="Longest download of one model.")
    auto_setup_enabled: bool = Field(default=True, description="Get missing required models at start.")
    download_models_on_start: bool = Field(default=False, description="Get every model this machine is recommended at start.")
    model_unload_timeout_s: NonNegativeFloat = Field(default=600.0, description="Idle time before a model unloads; 0 is never.")
    model_sleep_timeout_s: NonNegativeFloat = Field(
        default=3600.0, description="Time a model sleeps (weights in RAM) before it ends; 0 is until RAM is needed."
    )
    max_concurrent_models: PositiveInt = Field(default=3, le=64, description="Local chat models loaded at a time.")
    min_residency_s: NonNegativeFloat = Field(default=30.0, description="Time a loaded model stays before it may make room.")
    download_proxy: str | None = Field(default=None, repr=False, description="HTTP proxy of downloads.")
    llm_provider: ChatProvider = Field(default="local", description="Who answers model ids that name no provider.")
    local_llm_api_url: str | None = Field(default=None, description="OpenAI-compatible service used as the local provider.")
    openai_base_url: str = Field(default="https://api.openai.com/v1", description="OpenAI or a compatible service.")
    ollama_url: str = Field(default="http://127.0.0.1:11434", description="Ollama server.")
    ollama_model: str | None = Field(
        default=None, max_length=200, description="Ollama's model where the hub falls back to it with a name it does not have."
    )
    github_base_url: str = Field(default="https://models.github.ai/inference", description="GitHub Models.")
    provider_timeout_s: PositiveFloat = Field(default=60.0, description="Longest wait for a remote provider's next byte.")
    fallback_order: tuple[ChatProvider, ...] = Field(default=(), description="Providers to try when the first one fails.")
    preferred_model: str | None = Field(default=None, max_length=200, description="Model that `auto` prefers where it fits.")

    @field_validator("fallback_order", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("fallback_order")
    @classmethod
    def _names_each_once(cls, value: tuple[ChatProvider, ...]) -> tuple[ChatProvider, ...]:
        if len(set(value)) != len(value):
            raise ValueError("each provider may be named once")
        return value

    @field_validator("ollama_url", mode="before")
    @classmethod
    def _accept_ollama_host(cls, value: object) -> object:
        """Read Ollama's own form of the variable too: `0.0.0.0:11434` and `gpu-box` mean a port and a host to listen on.

        Of a full address, the path of one of Ollama's two APIs is not part of the base.
        """
        if not isinstance(value, str):
            return value
        if "://" in value:
            return value.rstrip("/").removesuffix("/v1").removesuffix("/api")
        host, _, port = value.partition(":")
        shown = "127.0.0.1" if host in {"", "0.0.0.0"} else host  # noqa: S104  # compared, not bound
        return f"http://{shown}:{port or 11434}"

    @field_validator("llm_provider", mode="before")
    @classmethod
    def _accept_capitals(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("ollama_model")
    @classmethod
    def _names_an_ollama_model(cls, value: str | None) -> str | None:
        try:
            return None if value is None else ModelKey("ollama", value).name
        except InvalidRequestError as error:
            raise ValueError("must be a name such as gemma2:9b") from error

    @field_validator("download_proxy", "local_llm_api_url", "openai_base_url", "ollama_url", "github_base_url")
    @classmethod
    def _is_http_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an address such as http://127.0.0.1:11434")
        return value.rstrip("/")

    def shown(self) -> dict[str, Any]:
        """Return the settings as JSON values fit for an answer or a log: the proxy, which may carry a password, is hidden."""
        values = self.model_dump(mode="json")
        return values | {"download_proxy": None if self.download_proxy is None else "(set)"}


class ConfigurationStore:
    """The configuration of one hub.

    Args:
        path: `config.json`; need not exist.
        environ: The environment variables.
    """

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self._path = path
        self._audit_path = path.with_name(AUDIT_NAME)
        self._environ = environ

    def read(self) -> HubConfiguration:
        """Return the settings as they are now.

        Raises:
            ConfigurationError: The file or a variable is wrong; the message names the setting.
        """
        stored = self._read_file()
        try:
            return HubConfiguration.model_validate(self._read_environment() | stored)
        except ValidationError as error:
            variables = {setting: name for setting, name in self._variables().items() if setting not in stored}
            problems = _explain(error, variables)
            raise ConfigurationError(f"The settings in {self._path} or the environment are wrong: {problems}.") from error

    def configure(self, changes: Mapping[str, object], actor: str) -> HubConfiguration:
        """Change settings for good; None returns a setting to its variable or default.

        Args:
            changes: New values by name.
            actor: Who asks, for the audit.

        Raises:
            InvalidRequestError: A name is unknown, may not be changed by a request, or its value is wrong. Nothing changes.
            ConfigurationError: The file on the disk is wrong.
        """
        _check_names(changes)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(self._path):
            before = self.read()
            stored = self._read_file() | dict(changes)
            stored = {name: value for name, value in stored.items() if value is not None}
            try:
                after = HubConfiguration.model_validate(self._read_environment() | stored)
            except ValidationError as error:
                name = str(error.errors()[0]["loc"][0]) if error.errors()[0]["loc"] else None
                raise InvalidRequestError(f"The settings were not changed: {_explain(error)}.", param=name) from error
            # The audit comes first: a change without a line in it must not happen, a line without its change may.
            append_line(self._audit_path, _audit_line(before, after, changes, actor))
            kept = after.model_dump(mode="json", include=set(stored))
            write_document(self._path, kept)
        return after

    def _variables(self) -> dict[str, str]:
        """The variable that counts for each setting that has one."""
        found: dict[str, str] = {}
        for setting, names in ENVIRONMENT.items():
            name = next((name for name in names if self._environ.get(name, "").strip()), None)
            if name is not None:
                found[setting] = name
        return found

    def _read_environment(self) -> dict[str, Any]:
        return {setting: self._environ[name].strip() for setting, name in self._variables().items()}

    def _read_file(self) -> dict[str, Any]:
        if not self._path.exists():
            return {}
        try:
            values = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{self._path} is not readable JSON: {error}. Correct it or remove it.") from error
        if not isinstance(values, dict):
            raise ConfigurationError(f"{self._path} holds no JSON object. Correct it or remove it.")
        return values


def _check_names(changes: Mapping[str, object]) -> None:
    changeable = sorted(set(ENVIRONMENT) - ADDRESSES)
    for name in changes:
        if name in ADDRESSES:
            raise InvalidRequestError(
                f"{name} cannot be changed by a request. Set {ENVIRONMENT[name][0]}, or write it into {CONFIGURATION_NAME}.",
                param=name,
                code="setting_not_changeable",
            )
        if name not in ENVIRONMENT:
            raise InvalidRequestError(
                f"There is no setting of that name. Known are: {', '.join(changeable)}.", param=name[:64], code="unknown_setting"
            )


def _audit_line(
    before: HubConfiguration, after: HubConfiguration, changes: Mapping[str, object], actor: str
) -> dict[str, object]:
    old, new = before.shown(), after.shown()
    return {"at": time.time(), "actor": actor, "changes": {name: {"from": old[name], "to": new[name]} for name in changes}}


def _explain(error: ValidationError, variables: Mapping[str, str] | None = None) -> str:
    known = ", ".join(ENVIRONMENT)
    problems = []
    for problem in error.errors():
        name = ".".join(map(str, problem["loc"]))
        is_unknown = problem["type"] == "extra_forbidden"
        if problem["loc"] and (variable := (variables or {}).get(str(problem["loc"][0]))):
            # A proxy's address may hold a password.
            name += f" ({variable})" if name == "download_proxy" else f" ({variable} is {str(problem['input'])[:100]!r})"
        problems.append(f"{name[:64]} is unknown, known are {known}" if is_unknown else f"{name}: {problem['msg']}")
    return "; ".join(problems)
