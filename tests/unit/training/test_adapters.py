from pathlib import Path

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from aihub.core.errors import InvalidRequestError
from tests.unit.training.tiny_model import SETTINGS
from training.adapters import choose_precision, load_model

CPU = torch.device("cpu")


def test_model_with_a_state_from_token_to_token_is_refused_when_rows_are_shared(tmp_path: Path) -> None:
    MambaForCausalLM(MambaConfig(vocab_size=16, hidden_size=32, state_size=4, num_hidden_layers=1)).save_pretrained(tmp_path)
    with pytest.raises(InvalidRequestError, match="Set packing to false") as caught:
        load_model(tmp_path, SETTINGS, base_name="mamba", device=CPU)
    assert caught.value.param == "packing"
    alone = SETTINGS.model_copy(update={"packing": False})
    with pytest.raises(InvalidRequestError, match="'out_proj' is incompatible with Mamba") as caught:
        load_model(tmp_path, alone, base_name="mamba", device=CPU)
    assert caught.value.param == "target_modules"
    load_model(tmp_path, alone.model_copy(update={"target_modules": ("in_proj", "x_proj")}), base_name="mamba", device=CPU)


def test_gradient_checkpointing_keeps_fewer_activations(base: Path) -> None:
    assert count_kept(base, gradient_checkpointing=True) < count_kept(base, gradient_checkpointing=False) / 2


def count_kept(base: Path, *, gradient_checkpointing: bool) -> int:
    """Numbers that a forward pass keeps for the backward pass."""
    settings = SETTINGS.model_copy(update={"gradient_checkpointing": gradient_checkpointing})
    model = load_model(base, settings, base_name="tiny", device=CPU).train()
    sizes: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=torch.ones(1, 64, dtype=torch.long), use_cache=False)
    return sum(sizes)


@pytest.mark.parametrize("has_units", [True, False])
def test_precision_is_bfloat16_where_the_processor_multiplies_it(monkeypatch: pytest.MonkeyPatch, has_units: bool) -> None:
    monkeypatch.setattr("training.adapters.has_bfloat16_units", lambda: has_units)
    automatic = SETTINGS.model_copy(update={"precision": "auto"})
    assert choose_precision(automatic, CPU) == (torch.bfloat16 if has_units else torch.float32)
    assert choose_precision(SETTINGS, CPU) == torch.float32
