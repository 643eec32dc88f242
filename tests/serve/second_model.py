"""A second local chat model: two random layers with the tokenizer of the packaged model, so small that it loads quickly."""

import json
import shutil
from pathlib import Path

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def build_second_model(first: Path, target: Path) -> None:
    """Write a safetensors model folder to `target`, in the shape of the model in `first`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = json.loads((first / "config.json").read_text(encoding="utf-8"))
    settings.pop("architectures", None)
    config = LlamaConfig(**settings | {"num_hidden_layers": 2})
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(target)
    for name in TOKENIZER_FILES:
        if (first / name).is_file():
            shutil.copy(first / name, target / name)
