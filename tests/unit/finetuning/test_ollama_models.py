from pathlib import Path

import pytest

from aihub.core.errors import ConfigurationError
from aihub.finetuning.ollama_models import load_ollama_models
from aihub.models.keys import parse_key
from aihub.models.store.catalogue import load_catalogue

TABLE = load_ollama_models()


def test_every_model_of_the_table_is_one_that_the_hub_can_fetch() -> None:
    ids = [hub_id for family in TABLE.families.values() for hub_id in family.sizes.values()]
    assert len(ids) > 40
    assert [hub_id for hub_id in ids if str(parse_key(f"hf:{hub_id}")) != f"hf:{hub_id}"] == []


def test_every_model_of_ollama_in_the_catalogue_has_one_that_can_be_trained() -> None:
    ollama = [entry for entry in load_catalogue().entries if entry.key.provider == "ollama" and "chat" in entry.types]
    names = [entry.key.name for entry in ollama if "vision" not in entry.types]  # adapters are for models that read text
    assert names
    refusals = [TABLE.find_refusal(name, "model") for name in names]
    assert [name for name, refusal in zip(names, refusals, strict=True) if refusal is None or "<org>" in refusal.message] == []


@pytest.mark.parametrize(
    ("tag", "hub_id"),
    [
        (None, "meta-llama/Llama-2-7b-chat-hf"),
        ("latest", "meta-llama/Llama-2-7b-chat-hf"),
        ("70b-chat-q2_K", "meta-llama/Llama-2-70b-chat-hf"),
        ("13B", "meta-llama/Llama-2-13b-chat-hf"),
        ("text", "meta-llama/Llama-2-7b-chat-hf"),
    ],
)
def test_a_tag_stands_for_its_size_else_for_the_usual_one(tag: str | None, hub_id: str) -> None:
    assert TABLE.families["llama2"].find(tag) == hub_id


@pytest.mark.parametrize("name", ["smol", "toy-base", "Qwen/Qwen2.5-0.5B-Instruct", "mô hình", ""])
def test_a_name_that_ollama_has_not_is_none_of_its(name: str) -> None:
    assert TABLE.find_refusal(name, "model") is None


@pytest.mark.parametrize(
    "text", ["families: {a: {default: 7b, sizes: {1b: x/y}}}", "families: {a: {default: 1b, sizes: {1b: ../x}}}"]
)
def test_a_wrong_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ollama_models.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="default|sizes"):
        load_ollama_models(path)
