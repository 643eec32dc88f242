"""What providers are told: keys from the environment, everything else from the run-time configuration."""

from aihub.providers.settings import ProviderSettings
from aihub.registry.configuration import HubConfiguration
from aihub.settings import Settings


def provider_settings(settings: Settings, configuration: HubConfiguration) -> ProviderSettings:
    """Put the two together."""
    return ProviderSettings(
        default_provider=configuration.llm_provider,
        local_api_url=configuration.local_llm_api_url,
        local_api_key=settings.local_llm_api_key,
        openai_base_url=configuration.openai_base_url,
        openai_api_key=settings.openai_api_key,
        github_base_url=configuration.github_base_url,
        github_api_key=settings.github_token,
        ollama_url=configuration.ollama_url,
        ollama_model=configuration.ollama_model,
        timeout_s=configuration.provider_timeout_s,
        fallback_order=configuration.fallback_order,
        preferred_model=configuration.preferred_model,
        proxy=configuration.download_proxy,
    )
