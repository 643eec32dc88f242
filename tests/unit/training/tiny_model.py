"""A Llama of random weights and a tokenizer of bytes, made in code, and small data for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from aihub.finetuning.examples import Example, Turn
from aihub.finetuning.settings import FineTuningSettings

CHATML = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
SETTINGS = FineTuningSettings(
    learning_rate=0.02, epochs=2, batch_size=2, rank=4, alpha=8, precision="float32", max_tokens=128, warmup_share=0.2
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, but for `abc` and two line breaks, which are one token each; special tokens of ChatML."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    line = letters[letters.index("Ċ")]
    words = [*letters, "ab", "abc", line * 2]
    merges = [("a", "b"), ("ab", "c"), (line, line)]
    inner = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ("<|im_start|>", "<|im_end|>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    return tokenizer


def write_tiny_model(folder: Path, **dimensions: Any) -> Path:
    """Write a model folder as they come from the hub; a few hundred kB unless `dimensions` of its config say otherwise."""
    tokenizer = build_tokenizer()
    torch.manual_seed(7)
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    LlamaForCausalLM(LlamaConfig(**settings | dimensions)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ask(question: str, answer: str, *, line: int = 1) -> Example:
    return Example((Turn("user", question), Turn("assistant", answer, is_trained=True)), line)


def questions() -> Sequence[Example]:
    """Seven of very different lengths, so that means of means and padding would show."""
    return [
        ask("Giá?", "5"),
        ask("Open?", "At seven, every day but Sunday."),
        ask("Who?", "Hạnh"),
        ask("Where is it, please?", "218 Trần Quý"),
        ask("abc", "abcabc abc"),
        ask("?", "!"),
        ask("Màu gì?", "Xanh, đỏ, tím và vàng"),
    ]
