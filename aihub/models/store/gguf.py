"""GGUF file to safetensors folder, through transformers."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aihub.core.progress import Progress

# Where the file was read, which says nothing about the model; transformers writes both back into the settings.
TRANSIENT_TOKENIZER_KEYS = ("is_local", "local_files_only")


def convert_gguf(
    gguf_file: Path,
    folder: Path,
    progress: Progress,
    chat_template: str | None = None,
    sampling: Mapping[str, float] | None = None,
) -> None:
    """Write the model in `gguf_file` to `folder` as bfloat16 safetensors with tokenizer, chat template and generation settings.

    bfloat16 holds the de-quantised 4 and 8 bit weights to within their own rounding error and is what CPU and CUDA engines
    compute in. Takes about 20 s and 1.2 GB of memory for 135 M parameters.

    Args:
        gguf_file: The weights.
        folder: Where to write; exists.
        progress: Called with each step.
        chat_template: Jinja text that replaces the template inside the file.
        sampling: Default sampling settings of the model (`temperature`, `top_p`), which engines use where a request has none.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"gguf_file": gguf_file.name, "local_files_only": True}
    progress("Reading the tokenizer", 0.0)
    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, **where)
    progress("Reading the tokenizer", 1.0)
    with _bars_replaced(progress):
        model = AutoModelForCausalLM.from_pretrained(
            gguf_file.parent, quantization_config=GgufConfig(dequantize=True), dtype="bfloat16", **where
        )
        progress("Writing safetensors", 0.0)
        model.generation_config.update(do_sample=True, **(sampling or {}))
        model.save_pretrained(folder)
    tokenizer.model_max_length = model.config.max_position_embeddings
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    _drop_transient_keys(folder / "tokenizer_config.json")
    progress("Writing safetensors", 1.0)


@contextmanager
def _bars_replaced(progress: Progress) -> Iterator[None]:
    """Route the converter's bar to `progress` and silence the others; transformers 5.19 has no hook for the former."""
    from transformers import modeling_gguf_pytorch_utils as converter
    from transformers.utils import logging

    def report(tensors: Iterable[Any], **_: Any) -> Iterator[Any]:
        items = list(tensors)
        for done, tensor in enumerate(items):
            progress("Converting weights", done / len(items))
            yield tensor
        progress("Converting weights", 1.0)

    bar, is_shown = converter.tqdm, logging.is_progress_bar_enabled()
    converter.tqdm = report
    logging.disable_progress_bar()
    progress("Converting weights", 0.0)
    try:
        yield
    finally:
        converter.tqdm = bar
        if is_shown:
            logging.enable_progress_bar()


def _drop_transient_keys(path: Path) -> None:
    settings = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in settings.items() if key not in TRANSIENT_TOKENIZER_KEYS}
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
