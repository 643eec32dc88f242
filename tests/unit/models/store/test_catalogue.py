from pathlib import Path
from typing import Any

import pytest
import yaml

from aihub.core.errors import ConfigurationError, InvalidRequestError
from aihub.core.profiles import PROFILES_DIR, load_profile
from aihub.models.keys import ModelKey, parse_key
from aihub.models.store.catalogue import CHAT_PACKAGES, EMBEDDING_PACKAGES, load_catalogue

CATALOGUE = load_catalogue()
MODEL: dict[str, Any] = {"key": "hf:org/toy", "model_id": "toy", "title": "Toy", "types": ["chat"], "licence": "MIT"}


def write(folder: Path, *models: dict[str, Any]) -> Path:
    (folder / "toy.yaml").write_text(yaml.safe_dump({"models": list(models)}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "key",
    [
        "ollama:gemma2:9b",
        "ollama:llama3.1:8b",
        "ollama:qwen2.5:7b",
        "ollama:gemma2:2b",
        "vosk:vi",
        "vosk:en",
        "github:openai/gpt-4o-mini",
        "openai:gpt-4o-mini",
        "hf:openai/gpt-oss-20b",
        "hf:phamhai/Llama-3.2-3B-Instruct-Frog",
        "hf:Qwen/Qwen2.5-0.5B-Instruct",
        "hf:Qwen/Qwen2.5-7B-Instruct-AWQ",
    ],
)
def test_promised_model_is_in_the_catalogue(key: str) -> None:
    assert CATALOGUE.get(parse_key(key)) is not None


def test_packaged_defaults_are_the_required_models() -> None:
    assert {entry.key for entry in CATALOGUE.required} == {
        ModelKey("package", name) for name in CHAT_PACKAGES | EMBEDDING_PACKAGES
    }


def test_profiles_and_catalogue_call_models_the_same() -> None:
    for path in PROFILES_DIR.glob("*.yaml"):
        profile = load_profile(path.stem)
        for part in (profile.llm, profile.embeddings):
            source = part.model_source if part.model_source.startswith("package:") else f"hf:{part.model_source}"
            [entry] = [entry for entry in CATALOGUE.entries if entry.model_id == part.model_id]
            assert str(entry.key) == source


def test_every_model_that_runs_here_says_what_it_needs() -> None:
    for entry in CATALOGUE.entries:
        if not entry.key.is_remote:
            assert entry.size_bytes
            assert "cuda" not in entry.devices or entry.min_vram_gb > 0
            assert "cpu" not in entry.devices or entry.min_ram_gb > 0


def test_speech_models_name_the_archive_they_come_from() -> None:
    archives = [entry.source_url for entry in CATALOGUE.entries if entry.types == ("speech",)]
    assert len(archives) == 2
    assert all(archive is not None and archive.startswith("https://") for archive in archives)


def test_key_in_other_capitals_is_refused_by_the_name_of_the_known_one() -> None:
    with pytest.raises(InvalidRequestError, match="There is a model hf:Qwen/Qwen2.5-0.5B-Instruct"):
        CATALOGUE.parse("hf:qwen/qwen2.5-0.5b-instruct")
    with pytest.raises(InvalidRequestError, match="There is a model local:Shop"):
        CATALOGUE.parse("local:shop", [parse_key("local:Shop")])
    assert CATALOGUE.parse("hf:Qwen/Other") == parse_key("hf:Qwen/Other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "colour: Extra inputs"),
        ({"key": "hf:../etc"}, "This is no model key"),
        ({"types": []}, "types"),
        ({"types": ["poetry"]}, "types.0"),
        ({"sha256": "abc"}, "sha256"),
        ({"source_url": "https://example.org/toy.zip"}, "speech models have a source_url"),
        ({"source_url": "http://example.org/toy.zip", "key": "vosk:toy"}, "source_url"),
        ({"key": "openai:toy"}, "run on no device"),
        ({"size_bytes": 0}, "size_bytes"),
    ],
)
def test_wrong_entry_is_refused_with_file_and_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_catalogue(write(tmp_path, MODEL | change))
    assert "toy.yaml" in caught.value.message


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="share a key or a model_id"):
        load_catalogue(write(tmp_path, MODEL, MODEL | {"key": "hf:org/other"}))


def test_file_without_a_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text("- a\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="must hold one list called models"):
        load_catalogue(tmp_path)
