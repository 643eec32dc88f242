"""A whole small llama goes through the conversion that the default chat model takes."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from aihub.core.model_folder import check_model_folder, read_json
from aihub.models.store.gguf import convert_gguf

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
WIDTH, INNER, HEADS, VOCABULARY = 64, 96, 2, 300


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "toy.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = special + [f"t{number}" for number in range(VOCABULARY - 4)] + ["ab"]
    writer.add_token_list([*tokens[:3], "a", "b", *tokens[5:]])
    writer.add_token_types([3, 3, 3] + [1] * (VOCABULARY - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    random = np.random.default_rng(0)
    shapes = {
        "token_embd": (VOCABULARY, WIDTH),
        "output_norm": (WIDTH,),
        "blk.0.attn_norm": (WIDTH,),
        "blk.0.ffn_norm": (WIDTH,),
        "blk.0.ffn_gate": (INNER, WIDTH),
        "blk.0.ffn_up": (INNER, WIDTH),
        "blk.0.ffn_down": (WIDTH, INNER),
    } | {f"blk.0.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
    for name, shape in shapes.items():
        values = random.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values)
        else:
            kind = gguf.GGMLQuantizationType.Q4_1
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_result_is_a_bfloat16_safetensors_folder_with_template_and_settings(
    gguf_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from safetensors import safe_open
    from transformers import AutoTokenizer

    steps: dict[str, list[float]] = {}
    convert_gguf(gguf_file, tmp_path, lambda step, share: steps.setdefault(step, []).append(share))

    check_model_folder(tmp_path)
    config = read_json(tmp_path / "config.json")
    assert (config["model_type"], config["dtype"], config["max_position_embeddings"]) == ("llama", "bfloat16", 512)
    assert read_json(tmp_path / "generation_config.json")["eos_token_id"] == 2
    with safe_open(tmp_path / "model.safetensors", framework="pt") as weights:
        assert str(weights.get_tensor("model.embed_tokens.weight").dtype) == "torch.bfloat16"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False) == "ab"
    assert tokenizer.model_max_length == 512
    assert "is_local" not in read_json(tmp_path / "tokenizer_config.json")

    assert list(steps) == ["Reading the tokenizer", "Converting weights", "Writing safetensors"]
    shares = steps["Converting weights"]
    assert shares == sorted(shares)
    assert len(shares) > 10
    assert shares[-1] == 1.0
    assert "it/s" not in capfd.readouterr().err
