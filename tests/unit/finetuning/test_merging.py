"""A tiny model and an adapter become one model folder, in a process of its own as in the hub."""

import asyncio
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from aihub.core.errors import ConflictError, HubError
from aihub.core.principal import Principal
from aihub.finetuning.adapter_schemas import MergeReport
from aihub.finetuning.adapter_store import AdapterStore
from aihub.finetuning.adapters import Adapters
from aihub.finetuning.merged_models import MergedModels
from aihub.models.store.catalogue import load_catalogue
from aihub.models.store.detection import find_folders
from tests.unit.finetuning.adapter_parts import manifest
from tests.unit.training.tiny_model import write_tiny_model

ME = Principal()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny")


def train_nothing(base: Path, folder: Path) -> Path:
    """An adapter that changes what the model says, without training."""
    torch.manual_seed(1)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    model.save_pretrained(folder)
    return folder


def service(home: Path, base: Path | None, told: list[str]) -> Adapters:
    async def drop(_base: str, _adapter_id: str) -> None:
        raise AssertionError("merging drops nothing")

    async def changed() -> None:
        told.append("changed")

    return Adapters(
        AdapterStore(home),
        merged=MergedModels(home / "models", {"Tiny/Llama:1": base}.get, lambda: 2**40),
        drop=drop,
        models_changed=changed,
    )


async def merge_beside_others(adapters: Adapters, adapter_id: str) -> tuple[MergeReport, int]:
    """Return the report, and how often others had their turn meanwhile."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.05)
            turns += 1

    beside = asyncio.create_task(others())
    report = await adapters.merge(ME, adapter_id)
    beside.cancel()
    return report, turns


def test_merged_model_says_what_base_and_adapter_say_and_is_found_as_a_model(tmp_path: Path, base: Path) -> None:
    candidate, told = train_nothing(base, tmp_path / "candidate"), []
    adapters = service(tmp_path, base, told)
    adapter = AdapterStore(tmp_path).publish(candidate, manifest(base="Tiny/Llama:1"))
    merged, turns = asyncio.run(merge_beside_others(adapters, adapter.adapter_id))
    assert turns > 10
    folder = Path(merged.path)
    assert (merged.model_id, folder, told) == ("tiny-llama-1-shop-v1", tmp_path / "models" / "tiny-llama-1-shop-v1", ["changed"])

    ids = torch.tensor([[5, 9, 40, 7]])
    with torch.inference_mode():
        alone = AutoModelForCausalLM.from_pretrained(base)(ids).logits
        beside_it = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter.path)(ids).logits
        said = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    torch.testing.assert_close(said, beside_it, atol=1e-4, rtol=1e-4)
    assert (said - alone).abs().max() > 0.1
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert "<|im_start|>" in tokenizer.apply_chat_template([{"role": "user", "content": "chào"}], tokenize=False)
    assert [str(model.key) for model in find_folders(tmp_path / "models", load_catalogue())[0]] == ["local:tiny-llama-1-shop-v1"]
    with pytest.raises(ConflictError, match="is merged already, and can be asked as tiny-llama-1-shop-v1"):
        asyncio.run(adapters.merge(ME, adapter.adapter_id))


def test_failed_merge_leaves_no_folder(tmp_path: Path, base: Path) -> None:
    candidate = train_nothing(base, tmp_path / "candidate")
    adapter = AdapterStore(tmp_path).publish(candidate, manifest(base="Tiny/Llama:1"))
    (base / "modeling.py").write_text("print('runs')", encoding="utf-8")
    with pytest.raises(HubError, match="may carry code"):
        asyncio.run(service(tmp_path, base, []).merge(ME, adapter.adapter_id))
    assert list((tmp_path / "models").iterdir()) == []
