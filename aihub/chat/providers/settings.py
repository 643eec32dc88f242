"""What the operator says about providers: keys, addresses and order, as one typed object; and the models they are known for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, PositiveInt, SecretStr

from aihub.core.profiles import StrictModel
from aihub.core.typed_configuration import load_typed_yaml

ProviderName = Literal["local", "openai", "github", "ollama"]
PROVIDER_NAMES: tuple[ProviderName, ...] = get_args(ProviderName)

PROVIDERS_FILE = Path(__file__).resolve().parents[3] / "configs" / "providers.yaml"


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """Where providers are and how they may be used.

    Attributes:
        default_provider: Answers for names without a prefix that no local model has (`LLM_PROVIDER`).
        local_api_url: A server with OpenAI's API that stands beside the hub (`LOCAL_LLM_API_URL`); part of `local`.
        ollama_url: None switches Ollama off.
        ollama_model: Asked when the hub falls back to Ollama with a name it does not know; that of `KnownProvider` when None.
        timeout_s: Longest silence of a provider.
        fallback_order: Providers to try when the asked one fails before its first byte.
        preferred_model: What `auto` takes where it can.
        proxy: Proxy URL for openai and github.
    """

    default_provider: ProviderName = "local"
    local_api_url: str | None = None
    local_api_key: SecretStr | None = None
    openai_base_url: str = "https://api.openai.com/v1"
    openai_api_key: SecretStr | None = None
    github_base_url: str = "https://models.github.ai/inference"
    github_api_key: SecretStr | None = None
    ollama_url: str | None = None
    ollama_model: str | None = None
    timeout_s: float = 120.0
    fallback_order: tuple[ProviderName, ...] = field(default_factory=tuple)
    preferred_model: str | None = None
    proxy: str | None = None


class KnownModel(StrictModel):
    """A model the provider is known to offer.

    Attributes:
        context_tokens: Prompt plus answer.
        types: What it is for.
        languages: ISO 639-1 codes it answers well in.
    """

    name: str = Field(min_length=1)
    context_tokens: PositiveInt
    types: tuple[Literal["chat", "code", "vision"], ...] = ("chat",)
    languages: tuple[str, ...] = ("en",)


class KnownProvider(StrictModel):
    """One provider of `configs/providers.yaml`.

    Attributes:
        default_model: Asked when the hub falls back to this provider with a name it does not know.
        context_tokens: Taken for models which are not listed.
        models: Listed by `/v1/models` once the provider is configured.
        retired: What to tell when a service that its owner has shut down is gone; a gateway that speaks like it still works.
    """

    default_model: str
    context_tokens: PositiveInt
    models: tuple[KnownModel, ...] = ()
    retired: str | None = None

    def find(self, name: str) -> KnownModel | None:
        return next((model for model in self.models if model.name == name), None)


class KnownProviders(StrictModel):
    """`configs/providers.yaml`; `local` stands for the server at LOCAL_LLM_API_URL."""

    local: KnownProvider
    openai: KnownProvider
    github: KnownProvider
    ollama: KnownProvider

    def of(self, provider: ProviderName) -> KnownProvider:
        found: KnownProvider = getattr(self, provider)
        return found


def load_known_providers(path: Path = PROVIDERS_FILE) -> KnownProviders:
    """Load the models providers are known for.

    Raises:
        ConfigurationError: The file is no YAML, or a key or value is wrong; the message names each.
    """
    return load_typed_yaml(path, KnownProviders)
