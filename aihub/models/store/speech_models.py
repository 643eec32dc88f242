"""The speech models of this machine, as the speech service asks for them. Implements `aihub.speech.service.SpeechModelStore`."""

from collections.abc import Sequence
from pathlib import Path

from aihub.core.settings import Settings
from aihub.models.keys import ModelKey
from aihub.models.store.catalogue import Catalogue, load_catalogue
from aihub.models.store.detection import find_speech_models
from aihub.models.store.installs import InstallStore
from aihub.models.store.local import INSTALLS_FOLDER
from aihub.speech.service import KnownSpeechModel, SpeechModelFolder

_PROVIDER = "vosk"


class InstalledSpeechModels:
    """Models in the state folder and in a folder of the operator's, which wins where both have one.

    Args:
        installs: What the hub installed.
        models_path: Folder of model folders which people put there.
        speech_folder: Folder of a Vosk model elsewhere on this machine, or of several.
        catalogue: Knows languages and folder names.
    """

    def __init__(self, installs: InstallStore, models_path: Path, speech_folder: Path | None, catalogue: Catalogue) -> None:
        self._installs = installs
        self._models_path = models_path
        self._speech_folder = speech_folder
        self._catalogue = catalogue

    def known(self) -> Sequence[KnownSpeechModel]:
        """Return the models of the catalogue."""
        return [
            KnownSpeechModel(str(entry.key), entry.model_id, entry.languages)
            for entry in self._catalogue.entries
            if entry.key.provider == _PROVIDER
        ]

    def find(self) -> list[SpeechModelFolder]:
        """Return all models, by key; reads the disk."""
        folders: dict[ModelKey, tuple[Path, float]] = {}
        self._add(folders, self._models_path)
        for key in self._installs.keys():
            install = self._installs.current(key) if key.provider == _PROVIDER else None
            if install is not None:
                folders[key] = install.path, install.installed_at
        self._add(folders, self._speech_folder)
        return [SpeechModelFolder(str(key), folder, installed_at) for key, (folder, installed_at) in sorted(folders.items())]

    def _add(self, folders: dict[ModelKey, tuple[Path, float]], place: Path | None) -> None:
        if place is None or not place.expanduser().is_dir():
            return
        for model in find_speech_models(place.expanduser().resolve(), self._catalogue)[0]:
            if model.path is not None:
                folders[model.key] = model.path, model.path.stat().st_mtime


def open_speech_models(settings: Settings) -> InstalledSpeechModels:
    """Return the speech models of `settings.home_path` and `settings.speech_model`.

    Raises:
        ConfigurationError: The catalogue is wrong.
    """
    installs = InstallStore(settings.home_path / INSTALLS_FOLDER)
    return InstalledSpeechModels(installs, settings.models_path, settings.speech_model, load_catalogue())
