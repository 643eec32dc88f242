"""A small chat model that sees: Idefics3, the architecture of SmolVLM, of random weights with the packaged model's tokenizer."""

import json
from pathlib import Path

IMAGE_SIDE = 64
LONGEST_EDGE = 4 * IMAGE_SIDE
PATCH_SIDE = 16
SCALE = 2
TOKENS_PER_TILE = (IMAGE_SIDE // PATCH_SIDE // SCALE) ** 2
END_EVERY = 4
MARKERS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}<image>{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def build_tiny_vision_model(first: Path, target: Path) -> None:
    """Write a safetensors model folder with its processor to `target`; the tokenizer is that of the model in `first`."""
    import torch
    from transformers import AutoTokenizer, Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    tokenizer = AutoTokenizer.from_pretrained(first)
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer.add_special_tokens({"additional_special_tokens": [*MARKERS, *tiles]})
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    layers = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Idefics3Config(
        vision_config=layers | {"image_size": IMAGE_SIDE, "patch_size": PATCH_SIDE},
        text_config=layers
        | ends
        | {"model_type": "llama", "num_key_value_heads": 1, "head_dim": 32, "vocab_size": len(tokenizer)}
        | {"max_position_embeddings": 4096},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=SCALE,
        **ends,
    )
    torch.manual_seed(0)
    Idefics3ForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(target)
    images = Idefics3ImageProcessorPil(size={"longest_edge": LONGEST_EDGE}, max_image_size={"longest_edge": IMAGE_SIDE})
    processor = Idefics3Processor(images, tokenizer, image_seq_len=TOKENS_PER_TILE, chat_template=TEMPLATE)
    processor.save_pretrained(target)
    # Random weights hardly ever end an answer: a quarter of all words does it for them.
    stops = {"eos_token_id": [tokenizer.eos_token_id, *range(0, len(tokenizer), END_EVERY)]}
    (target / "generation_config.json").write_text(json.dumps(stops), encoding="utf-8")
