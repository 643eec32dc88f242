"""A base model and an adapter as one model folder."""

import shutil
from pathlib import Path

from aihub.core.model_folder import check_model_folder
from aihub.core.progress import Progress

COPIED = (
    "generation_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)


def merge_adapter(base: Path, target: Path, progress: Progress, *, adapter: str) -> None:
    """Write the merged weights with tokenizer, chat template and configuration into an empty folder; see `run_in_subprocess`.

    Weights keep the type they are stored in.

    Raises:
        ConfigurationError: The base holds something that may carry code.
    """
    check_model_folder(base)
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    progress("Reading the model", 0.0)
    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(
            str(base), local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype="auto"
        )
        adapted = PeftModel.from_pretrained(model, adapter, is_trainable=False, torch_device="cpu")
        progress("Merging", 0.5)
        merged = adapted.merge_and_unload(safe_merge=True)
    progress("Writing", 0.7)
    merged.save_pretrained(str(target))
    AutoTokenizer.from_pretrained(str(base), local_files_only=True, trust_remote_code=False).save_pretrained(str(target))
    for name in COPIED:
        if (base / name).is_file() and not (target / name).exists():
            shutil.copyfile(base / name, target / name)
    check_model_folder(target)
    progress("Writing", 1.0)
