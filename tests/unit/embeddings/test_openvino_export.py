import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aihub.core.errors import ConfigurationError
from aihub.core.progress import no_progress
from aihub.embeddings import openvino_export
from aihub.embeddings.encoders import OpenVinoEncoder
from aihub.embeddings.openvino_export import export_encoder, folder_fingerprint
from aihub.embeddings.sentence_model import read_sentence_model, why_not_openvino
from tests.unit.models.store.toy_models import WORDS, write_json, write_sentence_model

IDS = np.array([[2, 5, 9, 12, 7, 3], [2, 11, 3, 0, 0, 0], [2, 6, 6, 14, 3, 0]], np.int64)
MASK = (IDS != 0).astype(np.int64)


def export(tmp_path: Path, **changes: Any) -> Path:
    target = tmp_path / "exported"
    target.mkdir()
    export_encoder(write_sentence_model(tmp_path / "source", **changes), target, no_progress)
    return target


def by_transformers(folder: Path, pooling: str) -> NDArray[np.float32]:
    """The same vectors from transformers' own model and the textbook's pooling."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False).eval()
    with torch.inference_mode():
        hidden = model(input_ids=torch.tensor(IDS), attention_mask=torch.tensor(MASK)).last_hidden_state.numpy()
    mask = MASK[:, :, None]
    pooled = hidden[:, 0] if pooling == "cls" else (hidden * mask).sum(axis=1) / mask.sum(axis=1)
    vectors: NDArray[np.float32] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    return vectors


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("model_type", ["bert", "xlm-roberta"])
def test_float32_graph_gives_transformers_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str, pooling: str
) -> None:
    monkeypatch.setattr(openvino_export, "MIN_COSINE", 2.0)
    folder = export(tmp_path, pooling=pooling, model_type=model_type)
    assert json.loads((folder / "encoder.json").read_text())["precision"] == "float32"
    assert np.allclose(OpenVinoEncoder(folder)(IDS, MASK), by_transformers(tmp_path / "source", pooling), atol=1e-5)


def test_int8_is_near_float32_and_is_said_to_be(tmp_path: Path) -> None:
    folder = export(tmp_path)
    facts = json.loads((folder / "encoder.json").read_text())
    assert facts["precision"] == "int8"
    assert facts["int8_cosine"] > 0.99
    vectors = OpenVinoEncoder(folder)(IDS, MASK)
    assert float((vectors * by_transformers(tmp_path / "source", "mean")).sum(axis=1).min()) > 0.95


def test_int8_vectors_do_not_depend_on_their_company(tmp_path: Path) -> None:
    encoder = OpenVinoEncoder(export(tmp_path))
    together = encoder(IDS, MASK)
    for row, mask, vector in zip(IDS, MASK, together, strict=True):
        alone = encoder(row[None, : mask.sum()], mask[None, : mask.sum()])
        assert np.allclose(alone[0], vector, atol=1e-5)


def test_a_full_disk_is_called_so_where_openvino_only_says_that_it_failed(tmp_path: Path) -> None:
    (tmp_path / openvino_export.GRAPH_NAME).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        openvino_export._try_to_write(tmp_path / openvino_export.GRAPH_NAME)


def test_a_conversion_that_changes_the_vectors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_export, "MIN_COSINE", 2.0)
    monkeypatch.setattr(openvino_export, "MIN_EXACT_COSINE", 2.0)
    with pytest.raises(ConfigurationError, match="backend: torch"):
        export(tmp_path)


def test_width_of_a_batch_never_passes_what_the_model_reads(tmp_path: Path) -> None:
    folder = export(tmp_path, max_position_embeddings=48)
    longest = np.full((1, read_sentence_model(folder).max_tokens), 5, np.int64)
    assert np.isfinite(OpenVinoEncoder(folder)(longest, np.ones_like(longest))).all()


def test_exported_folder_is_complete_without_the_weights(tmp_path: Path) -> None:
    folder = export(tmp_path)
    assert not (folder / "model.safetensors").exists()
    model = read_sentence_model(folder)
    assert (model.max_tokens, model.vocabulary_size) == (32, len(WORDS))


def test_a_model_of_another_architecture_is_told_apart(tmp_path: Path) -> None:
    folder = write_sentence_model(tmp_path / "model", model_type="mpnet")
    assert "mpnet" in (why_not_openvino(read_sentence_model(folder)) or "")


def test_longest_input_is_the_smaller_of_positions_and_setting(tmp_path: Path) -> None:
    folder = write_sentence_model(tmp_path / "model")
    (folder / "sentence_bert_config.json").unlink()
    assert read_sentence_model(folder).max_tokens == 48
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 512})
    assert read_sentence_model(folder).max_tokens == 48


def test_fingerprint_changes_with_a_file(tmp_path: Path) -> None:
    folder = write_sentence_model(tmp_path / "model")
    before = folder_fingerprint(folder)
    assert folder_fingerprint(folder) == before
    write_json(folder / "config.json", {})
    assert folder_fingerprint(folder) != before
