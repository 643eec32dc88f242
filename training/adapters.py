"""A base model folder with a fresh LoRA adapter, in NF4 or as it is."""

from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from aihub.core.errors import InvalidRequestError
from aihub.core.hardware import has_bfloat16_units
from aihub.core.model_folder import check_model_folder
from aihub.finetuning.settings import FineTuningSettings

PACKABLE_LAYERS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers that keep the sequences of a row apart by their position ids; states of a recurrence would run on."""


def read_context_tokens(base: Path) -> int | None:
    """How many tokens the model of a folder reads; None where it does not say."""
    config = AutoConfig.from_pretrained(str(base), local_files_only=True, trust_remote_code=False)
    tokens = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(tokens) if tokens else None


def choose_device() -> torch.device:
    """The graphics card that this process has been given, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def choose_precision(settings: FineTuningSettings, device: torch.device) -> torch.dtype:
    """The type that the base model computes in."""
    if settings.precision != "auto":
        return torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
    has_units = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else has_bfloat16_units()
    return torch.bfloat16 if has_units else torch.float32


def load_model(base: Path, settings: FineTuningSettings, *, base_name: str, device: torch.device) -> PeftModel:
    """Load a model folder and put an adapter on it that changes nothing yet.

    Args:
        base_name: Written into the adapter as the model it belongs to.

    Raises:
        ConfigurationError: The folder holds something that may carry code.
        InvalidRequestError: A target module that the model does not have, or packing where the model cannot keep sequences apart.
    """
    check_model_folder(base)
    dtype = choose_precision(settings, device)
    options: dict[str, Any] = {}
    if settings.method == "qlora":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=True
        )
    model = AutoModelForCausalLM.from_pretrained(
        str(base),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=dtype,
        device_map={"": device},
        **options,
    )
    model.config.use_cache = False
    _check_packable(model, settings)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    torch.manual_seed(settings.seed)
    config = _adapter_config(model, settings)
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:  # layers that cannot have an adapter in this kind of model
        raise InvalidRequestError(f"The model cannot have this adapter: {error}", param="target_modules") from error
    adapted.peft_config["default"].base_model_name_or_path = base_name
    return adapted


def switch_to_evaluation(model: PeftModel) -> None:
    """Turn dropout off; `model.train()` turns it on again.

    Layers of bitsandbytes stay as in training: on a CPU with AVX512-BF16 their first forward pass in evaluation mode packs
    the weights for a kernel without gradients, for good, and nothing below them would learn any more.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.train()


def name_linear_layers(model: Any) -> list[str]:
    """Full names of all linear layers but the output layer."""
    output = model.get_output_embeddings()
    return [
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D) and module is not output
    ]


def _adapter_config(model: Any, settings: FineTuningSettings) -> LoraConfig:
    targets: list[str] | str = "all-linear"
    if settings.target_modules is not None:
        known = name_linear_layers(model)
        for target in settings.target_modules:
            if not any(name == target or name.endswith(f".{target}") for name in known):
                short = sorted({name.rpartition(".")[2] for name in known})
                raise InvalidRequestError(
                    f"The model has no linear layer {target!r} that can be trained; it has {', '.join(short)}.",
                    param="target_modules",
                )
        targets = list(settings.target_modules)
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )


def _check_packable(model: Any, settings: FineTuningSettings) -> None:
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if settings.packing and (getattr(model, "_is_stateful", False) or not kinds <= PACKABLE_LAYERS):
        raise InvalidRequestError(
            "This model has layers that carry a state from token to token, so examples cannot share a row. Set packing to false.",
            param="packing",
        )
