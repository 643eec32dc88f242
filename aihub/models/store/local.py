"""The registry of one state folder, put together from settings and environment."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from aihub.core.settings import Settings
from aihub.models.configuration import CONFIGURATION_NAME, ConfigurationStore, HubConfiguration
from aihub.models.keys import ModelKey, Provider
from aihub.models.metrics import RegistryMetrics
from aihub.models.store.catalogue import Catalogue, load_catalogue
from aihub.models.store.detection import find_folders
from aihub.models.store.downloads.jobs import DownloadJobs
from aihub.models.store.installs import InstallStore
from aihub.models.store.registry import ModelRegistry, RegistryPlaces, nobody_told, nothing_in_use
from aihub.models.store.validation import HISTORY_NAME, Prober, Validator

INSTALLS_FOLDER = "installs"
DOWNLOADS_FOLDER = "downloads"
KEY_VARIABLES: dict[Provider, tuple[str, ...]] = {
    "openai": ("OPENAI_API_KEY",),
    "github": ("GITHUB_TOKEN", "GITHUB_MODELS_TOKEN"),
}


def open_registry(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    metrics: RegistryMetrics,
    prober: Prober | None = None,
    digests_in_use: Callable[[], Awaitable[set[str]]] = nothing_in_use,
    configured: Callable[[HubConfiguration], Awaitable[None]] = nobody_told,
    version_changed: Callable[[], Awaitable[None]] = nobody_told,
) -> ModelRegistry:
    """Return the registry of `settings.home_path`; nothing is written until something is asked of it. Close it at the end.

    Args:
        settings: Says where the state folder is.
        environ: The environment variables.
        metrics: Counts models, downloads and checks.
        prober: Loads and measures models; without one only files are checked.
        digests_in_use: Digests of the installs that are loaded.
        configured: Told the settings after they have changed.
        version_changed: Told when another version of a model may be current.

    Raises:
        ConfigurationError: The catalogue is wrong.
    """
    catalogue = load_catalogue()
    installs = InstallStore(settings.home_path / INSTALLS_FOLDER)
    model_folders = partial(find_model_folders, installs=installs, models_path=settings.models_path, catalogue=catalogue)
    configuration = ConfigurationStore(settings.home_path / CONFIGURATION_NAME, environ)
    downloads = DownloadJobs(
        installs, catalogue, configuration.read, folder=settings.home_path / DOWNLOADS_FOLDER, metrics=metrics
    )
    return ModelRegistry(
        RegistryPlaces(settings.home_path, settings.models_path, _hf_cache(environ), settings.speech_model),
        catalogue,
        installs=installs,
        configuration=configuration,
        validator=Validator(settings.home_path / HISTORY_NAME, model_folders, prober),
        downloads=downloads,
        digests_in_use=digests_in_use,
        configured=configured,
        version_changed=version_changed,
        providers_with_key=providers_with_key(environ),
        metrics=metrics,
    )


def find_model_folders(key: ModelKey, installs: InstallStore, models_path: Path, catalogue: Catalogue) -> list[Path]:
    """Return the folders with a manifest that hold `key`: its current install, and what the default set-up made of it."""
    current = installs.current(key)
    found, _ = find_folders(models_path, catalogue, with_derived=True)
    made = [model.path for model in found if model.key == key and model.digest is not None and model.path is not None]
    return ([current.path] if current is not None else []) + made


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
