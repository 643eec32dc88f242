"""The registry of one state folder, put together from settings and environment."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from aihub.registry.catalogue import load_catalogue
from aihub.registry.configuration import CONFIGURATION_NAME, ConfigurationStore
from aihub.registry.installs import InstallStore
from aihub.registry.keys import Provider
from aihub.registry.service import Downloads, ModelRegistry, RegistryPlaces, find_model_folders, nothing_in_use
from aihub.registry.validation import HISTORY_NAME, Prober, Validator
from aihub.settings import Settings

INSTALLS_FOLDER = "installs"
KEY_VARIABLES: dict[Provider, tuple[str, ...]] = {
    "openai": ("OPENAI_API_KEY",),
    "github": ("GITHUB_TOKEN", "GITHUB_MODELS_TOKEN"),
}


def open_registry(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    prober: Prober | None = None,
    make_downloads: Callable[[ModelRegistry], Downloads] | None = None,
    digests_in_use: Callable[[], Awaitable[set[str]]] = nothing_in_use,
) -> ModelRegistry:
    """Return the registry of `settings.home_path`; nothing is written until something is asked of it.

    Args:
        settings: Says where the state folder is.
        environ: The environment variables.
        prober: Loads and measures models; without one only files are checked.
        make_downloads: Makes what gets models, given the registry's catalogue, installs and configuration.
        digests_in_use: Digests of the installs that are loaded.

    Raises:
        ConfigurationError: The catalogue is wrong.
    """
    catalogue = load_catalogue()
    installs = InstallStore(settings.home_path / INSTALLS_FOLDER)
    find_folders = partial(find_model_folders, installs=installs, models_path=settings.models_path, catalogue=catalogue)
    registry = ModelRegistry(
        RegistryPlaces(settings.home_path, settings.models_path, _hf_cache(environ)),
        catalogue,
        installs=installs,
        configuration=ConfigurationStore(settings.home_path / CONFIGURATION_NAME, environ),
        validator=Validator(settings.home_path / HISTORY_NAME, find_folders, prober),
        digests_in_use=digests_in_use,
        providers_with_key=providers_with_key(environ),
    )
    if make_downloads is not None:
        registry.use_downloads(make_downloads(registry))
    return registry


def providers_with_key(environ: Mapping[str, str]) -> frozenset[Provider]:
    """Return the remote services that have a key in the environment."""
    return frozenset(
        provider for provider, names in KEY_VARIABLES.items() if any(environ.get(name, "").strip() for name in names)
    )


def _hf_cache(environ: Mapping[str, str]) -> Path | None:
    """Where the Hugging Face cache is when its variables name a place; None leaves it to the library's default."""
    if environ.get("HF_HUB_CACHE"):
        return Path(environ["HF_HUB_CACHE"]).expanduser()
    return Path(environ["HF_HOME"]).expanduser() / "hub" if environ.get("HF_HOME") else None
