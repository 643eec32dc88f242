"""Which speech models are installed, and which a request means. Looked up for each request: new installs count at once."""

import re
from dataclasses import dataclass
from pathlib import Path

from aihub.core.errors import InvalidRequestError, ModelUnavailableError, NotFoundError
from aihub.speech.service import AUTO_MODEL, KnownSpeechModel, SpeechModelFolder, SpeechModelInfo, SpeechModelStore

_LANGUAGES = {
    "ar": "Arabic", "br": "Breton", "ca": "Catalan", "cs": "Czech", "de": "German", "el": "Greek", "en": "English",
    "eo": "Esperanto", "es": "Spanish", "fa": "Farsi", "fr": "French", "gu": "Gujarati", "hi": "Hindi", "it": "Italian",
    "ja": "Japanese", "ka": "Georgian", "kk": "Kazakh", "ko": "Korean", "ky": "Kyrgyz", "nl": "Dutch", "pl": "Polish",
    "pt": "Portuguese", "ru": "Russian", "sv": "Swedish", "te": "Telugu", "tg": "Tajik", "tl": "Filipino", "tr": "Turkish",
    "uk": "Ukrainian", "uz": "Uzbek", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
"""What models are published for, by ISO 639-1 code."""
_COUNTRIES = {"vn": "vi", "cn": "zh", "ua": "uk", "jp": "ja", "kz": "kk"}
"""Country codes that Vosk's folder names have in the place of a language."""
_README_CHARS = 2000
_DYNAMIC_GRAPH = ("HCLr.fst", "Gr.fst")
_DEFAULT_SAMPLE_RATE = 16_000


@dataclass(frozen=True, slots=True)
class SpeechModel:
    """An installed speech model.

    Attributes:
        info: What clients see.
        folder: Its files.
        names: What requests may call it, in small letters.
        takes_phrases: Its graph is built while it listens, so that phrases can replace it.
        lowest_sample_rate: Hz of the audio that it hears at least.
    """

    info: SpeechModelInfo
    folder: Path
    names: frozenset[str]
    takes_phrases: bool
    lowest_sample_rate: int

    @property
    def language(self) -> str:
        """Its first language; `und` where nothing says."""
        return self.info.languages[0] if self.info.languages else "und"


class SpeechModels:
    """Finds models and says which one a request means.

    Args:
        store: Where they are looked for.
    """

    def __init__(self, store: SpeechModelStore) -> None:
        self._store = store

    def find(self) -> list[SpeechModel]:
        """Return all models that are installed now, by key; reads the disk."""
        known = {entry.key: entry for entry in self._store.known()}
        return [_describe(model, known.get(model.key)) for model in self._store.find()]

    def choose(self, installed: list[SpeechModel], model: str, language: str | None) -> list[SpeechModel]:
        """Return the model that a request means, or with `auto` all that may.

        Args:
            installed: From `find`.
            model: Key, name in the catalogue, or `auto`.
            language: ISO 639-1 code, with or without a region.

        Raises:
            ModelUnavailableError: It is not installed; the message says how to install it.
            NotFoundError: There is no such model.
            InvalidRequestError: The model does not hear the language.
        """
        wanted_language = language.lower().replace("_", "-").split("-")[0] if language else None
        if model.lower() == AUTO_MODEL:
            return self._of_language(installed, wanted_language)
        found = [candidate for candidate in installed if model.lower() in candidate.names]
        if not found:
            raise self._missing(installed, model)
        heard = found[0].info.languages
        if wanted_language is not None and heard and wanted_language not in heard:
            raise InvalidRequestError(
                f"The model {found[0].info.model_id} hears {', '.join(heard)}, and the request says {wanted_language}. "
                "Leave the language out, or name another model or `auto`.",
                param="language",
            )
        return found[:1]

    def _of_language(self, installed: list[SpeechModel], language: str | None) -> list[SpeechModel]:
        found = [model for model in installed if language is None or language in model.info.languages]
        if found:
            return found
        offered = [entry.key for entry in self._store.known() if language is None or language in entry.languages]
        if offered:
            what = "No speech model is installed" if language is None else f"No speech model that hears {language} is installed"
            raise _not_installed(what, offered)
        if not installed:
            raise _not_installed("No speech model is installed", [entry.key for entry in self._store.known()])
        heard = sorted({code for model in installed for code in model.info.languages})
        raise InvalidRequestError(
            f"No speech model hears the language {language!r}. Installed models hear: {', '.join(heard)}.", param="language"
        )

    def _missing(self, installed: list[SpeechModel], model: str) -> InvalidRequestError | ModelUnavailableError:
        entry = next((entry for entry in self._store.known() if model.lower() in _names(entry.key, entry.model_id)), None)
        if entry is not None:
            return _not_installed(f"The speech model {entry.key} is not installed", [entry.key])
        if not installed:
            return _not_installed("No speech model is installed", [entry.key for entry in self._store.known()])
        names = ", ".join(candidate.info.model_id for candidate in installed)
        return NotFoundError(
            f"There is no speech model {model[:100]!r}. Installed are: {names}; `auto` chooses by the language that is spoken.",
            param="model",
            code="model_not_found",
        )


def _describe(model: SpeechModelFolder, entry: KnownSpeechModel | None) -> SpeechModel:
    folder, name = model.folder, model.key.partition(":")[2]
    languages = entry.languages if entry is not None else read_languages(folder, name)
    return SpeechModel(
        SpeechModelInfo(model.key, tuple(languages), int(model.installed_at)),
        folder,
        _names(model.key, entry.model_id if entry is not None else None),
        takes_phrases=all((folder / "graph" / file).is_file() for file in _DYNAMIC_GRAPH),
        lowest_sample_rate=_read_lowest_sample_rate(folder),
    )


def read_languages(folder: Path, name: str) -> tuple[str, ...]:
    """Return the language that a model's name (`vosk-model-small-fr-0.22`) or its README gives; none where neither does."""
    for token in re.split(r"[-_.]", name.lower()):
        code = _COUNTRIES.get(token, token)
        if code in _LANGUAGES:
            return (code,)
    for readme in sorted(folder.glob("[Rr][Ee][Aa][Dd][Mm][Ee]*")):
        text = readme.read_text(encoding="utf-8", errors="replace")[:_README_CHARS] if readme.is_file() else ""
        for code, language in _LANGUAGES.items():
            if re.search(rf"\b{language}\b", text, re.IGNORECASE):
                return (code,)
    return ()


def _read_lowest_sample_rate(folder: Path) -> int:
    """Return the rate that the model was made for; 0 where it was told to take less."""
    try:
        options = (folder / "conf" / "mfcc.conf").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0  # it does not load, and Kaldi says why
    if re.search(r"^--allow-upsample=true\s*$", options, re.MULTILINE):
        return 0
    found = re.search(r"^--sample-frequency=(\d+)", options, re.MULTILINE)
    return int(found[1]) if found else _DEFAULT_SAMPLE_RATE


def _names(key: str, model_id: str | None) -> frozenset[str]:
    return frozenset(name for name in (key, key.replace(":", "-"), model_id) if name)


def _not_installed(what: str, keys: list[str]) -> ModelUnavailableError:
    commands = " or ".join(f"`aihub models download {key}`" for key in keys)
    return ModelUnavailableError(
        f"{what}. Install one: {commands}; a folder that you have already is named by AIHUB_SPEECH_MODEL.",
        code="speech_model_not_installed",
        retry_after_s=60,
    )
