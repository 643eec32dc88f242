"""Which speech models are installed, and which one a request means."""

from pathlib import Path

import pytest

from aihub.core.errors import HubError, InvalidRequestError, ModelUnavailableError, NotFoundError
from aihub.models.keys import parse_key
from aihub.models.store.catalogue import load_catalogue
from aihub.models.store.installs import InstallStore
from aihub.models.store.speech_models import InstalledSpeechModels
from aihub.speech.models import SpeechModels, read_languages


def make_model(folder: Path, *, readme: str | None = None, static: bool = False, mfcc: str = "") -> Path:
    """Lay out a model's files; nothing loads them here."""
    for name, text in {"am/final.mdl": "x", "conf/model.conf": "x", "conf/mfcc.conf": mfcc}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "graph").mkdir()
    for name in ("HCLG.fst",) if static else ("HCLr.fst", "Gr.fst"):
        (folder / "graph" / name).write_text("x", encoding="utf-8")
    if readme is not None:
        (folder / "README").write_text(readme, encoding="utf-8")
    return folder


class Places:
    """The folders of a hub."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.installs = InstallStore(home / "installs")
        self.models_path = home / "models"
        self.speech_folder = home / "elsewhere"

    def install(self, key: str) -> None:
        """Publish a model as the download does."""
        staging = self.installs.staging(parse_key(key))
        make_model(staging)
        self.installs.publish(parse_key(key), staging, digest="ab" * 32, source="test")

    def find(self) -> dict[str, tuple[str, ...]]:
        """Return key and languages of what is found."""
        return {model.info.model_id: model.info.languages for model in self.models.find()}

    @property
    def models(self) -> SpeechModels:
        """A finder of them."""
        return SpeechModels(InstalledSpeechModels(self.installs, self.models_path, self.speech_folder, load_catalogue()))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def test_models_of_every_place_are_found(places: Places) -> None:
    assert places.find() == {}
    places.install("vosk:vi")
    make_model(places.models_path / "vosk-model-small-fr-0.22")
    make_model(places.speech_folder / "vosk-model-small-en-us-0.15")
    assert places.find() == {"vosk:en": ("en",), "vosk:vi": ("vi",), "vosk:vosk-model-small-fr-0.22": ("fr",)}


def test_folder_of_one_model_is_found(places: Places) -> None:
    make_model(places.speech_folder)
    assert places.find() == {"vosk:elsewhere": ()}


def test_new_install_is_found_by_the_same_finder(places: Places) -> None:
    models = places.models
    assert models.find() == []
    places.install("vosk:en")
    assert [model.info.model_id for model in models.find()] == ["vosk:en"]


def test_folder_of_the_operator_wins_over_an_install(places: Places) -> None:
    places.install("vosk:en")
    own = make_model(places.speech_folder / "vosk-model-small-en-us-0.15")
    assert [model.folder for model in places.models.find()] == [own.resolve()]


@pytest.mark.parametrize(
    ("name", "readme", "languages"),
    [
        ("vosk-model-small-vn-0.4", None, ("vi",)),
        ("vosk-model-en-us-0.22-lgraph", None, ("en",)),
        ("vosk-model-small-cn-0.22", None, ("zh",)),
        ("tiny-vi", None, ("vi",)),
        ("my-model", "Swedish model for Vosk, adapted", ("sv",)),
        ("my-model", "A model", ()),
        ("my-model", None, ()),
    ],
)
def test_languages_come_from_the_name_or_the_readme(
    tmp_path: Path, name: str, readme: str | None, languages: tuple[str, ...]
) -> None:
    assert read_languages(make_model(tmp_path / name, readme=readme), name) == languages


@pytest.mark.parametrize("name", ["vosk:vi", "vosk-vi", "VOSK:VI"])
def test_model_is_called_by_its_key_or_its_name_in_the_catalogue(places: Places, name: str) -> None:
    places.install("vosk:vi")
    models = places.models
    assert [model.info.model_id for model in models.choose(models.find(), name, None)] == ["vosk:vi"]


def test_auto_means_all_models_of_the_language(places: Places) -> None:
    places.install("vosk:vi")
    places.install("vosk:en")
    models = places.models
    assert len(models.choose(models.find(), "auto", None)) == 2
    assert [model.language for model in models.choose(models.find(), "auto", "vi-VN")] == ["vi"]


@pytest.mark.parametrize(
    ("installed", "model", "language", "kind", "message"),
    [
        ([], "auto", None, ModelUnavailableError, "aihub models download vosk:vi"),
        ([], "vosk:whatever", None, ModelUnavailableError, "aihub models download vosk:vi"),
        (["vosk:en"], "vosk:vi", None, ModelUnavailableError, "aihub models download vosk:vi"),
        (["vosk:en"], "auto", "vi", ModelUnavailableError, "aihub models download vosk:vi"),
        (["vosk:en"], "auto", "fr", InvalidRequestError, "hear: en"),
        (["vosk:en"], "vosk:en", "vi", InvalidRequestError, "vosk:en hears en"),
        (["vosk:en"], "whisper-1", None, NotFoundError, "Installed are: vosk:en"),
        (["vosk:en"], "../etc", None, NotFoundError, "Installed are: vosk:en"),
    ],
)
def test_request_for_what_is_not_there_is_refused_with_what_to_do(
    places: Places, installed: list[str], model: str, language: str | None, kind: type[HubError], message: str
) -> None:
    for key in installed:
        places.install(key)
    models = places.models
    with pytest.raises(kind, match=message):
        models.choose(models.find(), model, language)


def test_what_a_model_can_do_is_read_from_its_files(places: Places) -> None:
    make_model(places.speech_folder / "dynamic-en", mfcc="--sample-frequency=16000\n--allow-upsample=true\n")
    make_model(places.speech_folder / "static-en", static=True, mfcc="--sample-frequency=8000\n")
    dynamic, static = places.models.find()
    assert (dynamic.takes_phrases, dynamic.lowest_sample_rate) == (True, 0)
    assert (static.takes_phrases, static.lowest_sample_rate) == (False, 8000)
