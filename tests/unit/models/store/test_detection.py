import json
import time
from pathlib import Path

import pytest

from aihub.core.files import Origin, publish_folder
from aihub.core.progress import no_progress
from aihub.models.keys import Provider, parse_key
from aihub.models.store import detection
from aihub.models.store.catalogue import load_catalogue
from aihub.models.store.detection import Detection, detect, find_folders, find_hf_cache, find_ollama_models
from aihub.models.store.installs import InstallStore
from tests.unit.models.store.ollama_server import serve

CATALOGUE = load_catalogue()
CLOSED = "http://127.0.0.1:9"


def make_model(folder: Path, weights: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / weights).write_bytes(b"weights")
    return folder


def make_speech_model(folder: Path) -> None:
    for name in ("am/final.mdl", "conf/model.conf"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


async def look(
    tmp_path: Path,
    ollama_url: str = CLOSED,
    with_key: frozenset[Provider] = frozenset(),
    speech_model: Path | None = None,
) -> Detection:
    return await detect(
        catalogue=CATALOGUE,
        installs=InstallStore(tmp_path / "installs"),
        models_path=tmp_path / "models",
        ollama_url=ollama_url,
        providers_with_key=with_key,
        hf_cache=tmp_path / "hf",
        speech_model=speech_model,
    )


def tags(*models: object) -> bytes:
    return json.dumps({"models": list(models)}).encode()


async def test_empty_machine_has_the_packages_only_and_nothing_fails(tmp_path: Path) -> None:
    found = await look(tmp_path)
    assert {str(key) for key in found.keys} == {"package:smollm2", "package:minilm"}
    assert {name for name, state in found.sources.items() if not state.is_available} == {"hf_cache", "ollama", "openai", "github"}


async def test_installed_model_is_found_with_its_digest(tmp_path: Path) -> None:
    installs = InstallStore(tmp_path / "installs")
    key = parse_key("vosk:vi")
    (installs.staging(key) / "tệp").write_text("x", encoding="utf-8")
    installs.publish(key, installs.staging(key), digest="ab" * 20, source="test")
    (model,) = [model for model in (await look(tmp_path)).models if model.source == "installs"]
    assert (model.key, model.digest, model.size_bytes) == (key, "ab" * 20, 1)


def test_folders_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    make_model(tmp_path / "shop-assistant")
    make_speech_model(tmp_path / "vosk-model-small-vn-0.4")
    make_speech_model(tmp_path / "vosk-model-de-0.21")
    make_model(tmp_path / "pickled", "model.bin")
    make_model(tmp_path / "..hidden")
    (tmp_path / "ảnh cưới").mkdir()
    (tmp_path / "link").symlink_to("/etc")
    models, state = find_folders(tmp_path, CATALOGUE)
    assert {str(model.key) for model in models} == {"local:shop-assistant", "vosk:vi", "vosk:vosk-model-de-0.21"}
    assert "pickled" in state.detail
    assert "ảnh cưới" in state.detail


@pytest.mark.parametrize("given", ["vosk-model-small-vn-0.4", ""], ids=["the model", "a folder of models"])
async def test_speech_model_elsewhere_is_found_where_the_operator_says(tmp_path: Path, given: str) -> None:
    make_speech_model(tmp_path / "giọng nói" / "vosk-model-small-vn-0.4")
    (tmp_path / "giọng nói" / "notes").mkdir()
    found = await look(tmp_path, speech_model=tmp_path / "giọng nói" / given)
    (model,) = [model for model in found.models if model.source == "speech_folder"]
    assert (str(model.key), model.path) == ("vosk:vi", tmp_path / "giọng nói" / "vosk-model-small-vn-0.4")
    assert found.sources["speech_folder"].is_available


async def test_speech_folder_that_is_not_there_is_a_state_not_an_error(tmp_path: Path) -> None:
    state = (await look(tmp_path, speech_model=tmp_path / "gone")).sources["speech_folder"]
    assert (state.is_available, "gone cannot be read" in state.detail) == (False, True)
    assert "speech_folder" not in (await look(tmp_path)).sources


def test_folder_of_the_hub_is_the_model_it_was_made_from(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"w")

    for name, origin in {
        "qwen": Origin("hub:Qwen/Qwen2.5-0.5B-Instruct", "abc123"),
        "smollm2": Origin("package:smollm2", "0.1"),
        "minilm-openvino": Origin("package:minilm", "0.1", recipe=3),
    }.items():
        publish_folder(tmp_path / name, origin, build, needed_bytes=1, progress=no_progress)
    models, state = find_folders(tmp_path, CATALOGUE)
    assert {str(model.key): model.digest for model in models} == {
        "hf:Qwen/Qwen2.5-0.5B-Instruct": "abc123",
        "package:smollm2": "0.1",
    }
    assert "no models" not in state.detail
    derived, _ = find_folders(tmp_path, CATALOGUE, with_derived=True)
    assert "package:minilm" in {str(model.key) for model in derived}


def test_folder_of_the_hub_with_a_missing_file_is_not_there(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "a").write_text("a", encoding="utf-8")

    publish_folder(tmp_path / "toy", Origin("package:smollm2", "1"), build, needed_bytes=1, progress=no_progress)
    (tmp_path / "toy" / "a").unlink()
    assert find_folders(tmp_path, CATALOGUE)[0] == []


def test_hugging_face_cache_gives_models_with_weights_only(tmp_path: Path) -> None:
    for name, file in {"Qwen--Qwen2.5-0.5B-Instruct": "model.safetensors", "old--pickled": "pytorch_model.bin"}.items():
        repository = tmp_path / f"models--{name}"
        snapshot = make_model(repository / "snapshots" / ("c" * 40), file)
        (repository / "blobs").mkdir()
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(snapshot.name, encoding="utf-8")
    models, state = find_hf_cache(tmp_path)
    assert [(str(model.key), model.digest) for model in models] == [("hf:Qwen/Qwen2.5-0.5B-Instruct", "c" * 40)]
    assert state.is_available


async def test_models_of_an_ollama_server_are_listed_and_odd_names_left_out(tmp_path: Path) -> None:
    body = tags(
        {"name": "gemma2:9b", "size": 5443152417, "digest": "ff02" * 16},
        {"name": "../../etc:latest", "size": 1},
        {"name": "mô hình"},
        {"size": 3},
        "gemma2:2b",
        {"name": "qwen2.5:7b", "size": "large", "digest": 7},
    )
    async with serve(body) as url:
        models, state = await find_ollama_models(url)
    assert [(str(m.key), m.size_bytes, m.digest) for m in models] == [
        ("ollama:gemma2:9b", 5443152417, "ff02" * 16),
        ("ollama:qwen2.5:7b", None, None),
    ]
    assert state.is_available


@pytest.mark.parametrize(
    ("body", "status", "extra"),
    [
        (b"<html>", "200 OK", ""),
        (b"[]", "200 OK", ""),
        (b'{"models": 3}', "200 OK", ""),
        (b"\xff\xfe", "200 OK", ""),
        (b"{}", "500 Internal Server Error", ""),
        (b"", "302 Found", "Location: http://127.0.0.1:9/\r\n"),
    ],
)
async def test_server_that_is_not_ollama_is_a_state_not_an_error(body: bytes, status: str, extra: str) -> None:
    async with serve(body, status=status, extra=extra) as url:
        models, state = await find_ollama_models(url)
    assert (models, state.is_available) == ([], False)


async def test_answer_without_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "MAX_ANSWER_BYTES", 1000)
    async with serve(b" " * 5000) as url:
        _, state = await find_ollama_models(url)
    assert "too long" in state.detail


async def test_server_that_hangs_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "OLLAMA_TIMEOUT_S", 0.1)
    started_s = time.monotonic()
    async with serve(hangs=True) as url:
        _, state = await find_ollama_models(url)
        assert time.monotonic() - started_s < 2
    assert not state.is_available


@pytest.mark.parametrize("url", [CLOSED, "http://[::bad", "http://127.0.0.1:x"])
async def test_address_where_nothing_answers_is_a_state(url: str) -> None:
    _, state = await find_ollama_models(url)
    assert not state.is_available


async def test_services_with_a_key_offer_their_catalogue_models(tmp_path: Path) -> None:
    found = await look(tmp_path, with_key=frozenset({"openai"}))
    assert parse_key("openai:gpt-4o-mini") in found.keys
    assert parse_key("github:openai/gpt-4o-mini") not in found.keys
