import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from aihub.core.errors import ConfigurationError
from aihub.core.model_folder import check_model_folder, read_special_tokens, read_weight_shapes
from tests.unit.models.store.toy_models import write_sentence_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sentence_model(tmp_path / "model")


def test_a_plain_model_is_taken(folder: Path) -> None:
    check_model_folder(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "a.pkl", "modeling_custom.py", "deep/er/rank.PTH", "x.joblib"])
def test_a_file_that_may_carry_code_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ConfigurationError, match=Path(name).name):
        check_model_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "1_Pooling/config.json"])
def test_auto_map_is_refused_at_any_depth(folder: Path, name: str) -> None:
    settings = json.loads((folder / name).read_text())
    settings["nested"] = [{"auto_map": {"AutoModel": "modeling.Custom"}}]
    (folder / name).write_text(json.dumps(settings))
    with pytest.raises(ConfigurationError, match="auto_map"):
        check_model_folder(folder)


@pytest.mark.parametrize(("name", "reason"), [("config.json", "no config.json"), ("model.safetensors", "no .safetensors")])
def test_a_missing_part_is_named(folder: Path, name: str, reason: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ConfigurationError, match=reason):
        check_model_folder(folder)


@pytest.mark.parametrize("content", ["{", "\x00", "[" * 100_000])
def test_broken_settings_are_an_error_with_the_file_s_name(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ConfigurationError, match="config.json"):
        check_model_folder(folder)


@pytest.mark.parametrize(
    "module",
    [
        {"path": "", "type": "custom_st.Transformer"},
        {"path": "../../etc", "type": "sentence_transformers.models.Pooling"},
        {"path": "/etc", "type": "sentence_transformers.models.Pooling"},
    ],
)
def test_modules_from_elsewhere_are_refused(folder: Path, module: dict[str, str]) -> None:
    (folder / "modules.json").write_text(json.dumps([module]))
    with pytest.raises(ConfigurationError, match="modules.json"):
        check_model_folder(folder)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    with pytest.raises(ConfigurationError, match="not a folder"):
        check_model_folder(tmp_path / "model")


def test_special_tokens_are_those_the_tokenizer_marks_so(folder: Path) -> None:
    added = [{"content": "<đặc biệt>", "special": True}, {"content": "<plain>", "special": False}]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}), encoding="utf-8")
    assert read_special_tokens(folder) == ("<đặc biệt>",)
    (folder / "tokenizer.json").unlink()
    assert read_special_tokens(folder) == ()


def test_special_tokens_of_a_broken_tokenizer_are_an_error(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="tokenizer.json"):
        read_special_tokens(folder)


def test_shapes_of_all_weights_are_read_from_the_heads_of_the_files(tmp_path: Path) -> None:
    save_file({"a": np.zeros((2, 3), np.float32)}, tmp_path / "model-1.safetensors")
    save_file({"b": np.zeros(4, np.float16)}, tmp_path / "model-2.safetensors")
    assert read_weight_shapes(tmp_path) == {"a": (2, 3), "b": (4,)}


def test_missing_and_damaged_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no .safetensors weights"):
        read_weight_shapes(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ConfigurationError, match="is not a readable safetensors file"):
        read_weight_shapes(tmp_path)
