"""LoRA adapters of random weights for a real model: no training, and an answer that differs from the model's own."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

RANK = 4


def build_random_adapter(base: Path, target: Path, *, seed: int, scale: float = 0.1) -> Path:
    """Write an adapter on two linear layers of each block of a Llama in `base`; a larger `scale` changes more."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    random = np.random.default_rng(seed)
    weights = {}
    for layer in range(config["num_hidden_layers"]):
        for module, (outputs, inputs) in {"self_attn.q_proj": (hidden, hidden), "mlp.down_proj": (hidden, wide)}.items():
            for part, shape in {"A": (RANK, inputs), "B": (outputs, RANK)}.items():
                name = f"base_model.model.model.layers.{layer}.{module}.lora_{part}.weight"
                weights[name] = random.normal(0, scale, shape).astype(np.float32)
    target.mkdir(parents=True)
    save_file(weights, target / "adapter_model.safetensors")
    document = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK}
    document |= {"target_modules": ["q_proj", "down_proj"], "base_model_name_or_path": base.name}
    (target / "adapter_config.json").write_text(json.dumps(document), encoding="utf-8")
    return target
