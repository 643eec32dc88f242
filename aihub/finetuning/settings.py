"""What a fine-tuning may set. `aihub.core.schemas.validate` turns a wrong value into a request error that names the field."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from aihub.core.profiles import StrictModel

ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$", max_length=200)]
Share = Annotated[float, Field(ge=0.0, le=0.5, allow_inf_nan=False)]


class FineTuningSettings(StrictModel):
    """Hyper-parameters of one LoRA or QLoRA training.

    Attributes:
        method: `qlora` keeps the base model in NF4 (4 bits a weight, bitsandbytes) while the adapter is trained.
        learning_rate: At the end of the warm-up; falls to 0 as a cosine.
        batch_size: Examples in one forward pass.
        gradient_accumulation: Forward passes for one step: a step learns from `batch_size * gradient_accumulation` examples,
            shared out among the workers where there are several.
        rank: Width of the adapter; vLLM serves up to 512.
        alpha: The adapter's output is multiplied by `alpha / rank`.
        dropout: Share of an adapter's inputs that is left out in training.
        target_modules: Names of the linear layers that get an adapter; all but the output layer when None.
        max_tokens: Longer examples lose their end; at most what the model reads.
        packing: Short examples of one forward pass share rows, so that less is spent on padding. The loss is the same.
        gradient_checkpointing: Compute activations twice instead of keeping them: less memory, more time.
        max_gradient_norm: Larger gradients are scaled down to it.
        warmup_share: Share of the steps in which the learning rate rises.
        validation_share: Share of the examples held out where no validation examples are given.
        early_stopping_patience: Evaluations in a row that may be no better than the best one before the training ends; the
            adapter is then that of the best one. Never when None.
        checkpoint_every_steps: Steps between checkpoints, each with an evaluation; once an epoch when None.
        precision: `auto` is bfloat16 where the hardware multiplies it natively, else float32.
    """

    method: Literal["lora", "qlora"] = "lora"
    learning_rate: Annotated[float, Field(ge=1e-8, le=0.1, allow_inf_nan=False)] = 2e-4
    epochs: Annotated[int, Field(ge=1, le=1000)] = 3
    batch_size: Annotated[int, Field(ge=1, le=512)] = 8
    gradient_accumulation: Annotated[int, Field(ge=1, le=1024)] = 1
    rank: Annotated[int, Field(ge=1, le=512)] = 16
    alpha: Annotated[int, Field(ge=1, le=4096)] = 32
    dropout: Annotated[float, Field(ge=0.0, le=0.9, allow_inf_nan=False)] = 0.0
    target_modules: Annotated[tuple[ModuleName, ...], Field(min_length=1, max_length=64)] | None = None
    max_tokens: Annotated[int, Field(ge=16, le=131_072)] = 1024
    packing: bool = True
    gradient_checkpointing: bool = False
    max_gradient_norm: Annotated[float, Field(gt=0.0, le=1000.0, allow_inf_nan=False)] = 1.0
    warmup_share: Share = 0.05
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    validation_share: Share = 0.0
    early_stopping_patience: Annotated[int, Field(ge=1, le=1000)] | None = None
    checkpoint_every_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
