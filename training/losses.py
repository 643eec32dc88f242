"""The loss of one forward pass, for learning and for evaluations alike."""

from typing import Any

import torch
from torch.nn import functional

from training.batches import IGNORED, Batch


def sum_loss(model: Any, batch: Batch, precision: torch.dtype) -> torch.Tensor:
    """Cross entropy in nats, summed over the trained tokens; logits are computed where a row has one of them.

    Args:
        model: A causal language model of transformers, with or without an adapter of peft.
        precision: What it computes in.
    """
    places = (batch.labels != IGNORED).any(dim=0).nonzero().squeeze(1)
    labels = batch.labels[:, places].flatten()
    with torch.autocast(batch.labels.device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        output = model(input_ids=batch.input_ids, position_ids=batch.position_ids, logits_to_keep=places, use_cache=False)
    logits = output.logits.flatten(0, 1)[labels != IGNORED].float()
    return functional.cross_entropy(logits, labels[labels != IGNORED], reduction="sum")
