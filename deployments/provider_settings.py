"""Where remote models are and by which keys: what variables say, and what the model manager's configuration says."""

from aihub.chat.providers.settings import ProviderSettings
from aihub.core.settings import Settings
from aihub.models.configuration import HubConfiguration


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
