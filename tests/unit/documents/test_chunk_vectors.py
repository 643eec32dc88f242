"""Vectors of chunks of any length: nothing left out, order kept, batches small."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from aihub.documents.chunk_vectors import BATCH_TEXTS, ChunkVectors, WindowCutter
from aihub.embeddings.service import EmbedderInfo, Embeddings
from tests.unit.documents.ingest_parts import SteeredEmbedder, minilm_tokenizer, text_vector


@pytest.fixture(scope="module")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Every UTF-8 byte is a token, so one character can be several."""
    vocabulary = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return str(path)


@cache
def tokenizer_of(path: str) -> Tokenizer:
    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def token_count(path: str, text: str) -> int:
    return len(tokenizer_of(path).encode(text).ids)


CUTTERS = {limit: WindowCutter(minilm_tokenizer(), limit) for limit in (16, 17, 64)}


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=400), limit=st.sampled_from(sorted(CUTTERS)))
def test_windows_hold_the_whole_text_and_fit(text: str, limit: int) -> None:
    pieces = CUTTERS[limit].cut(text)
    assert "".join(pieces) == text
    assert max(token_count(minilm_tokenizer(), piece) for piece in pieces) <= limit


@pytest.mark.parametrize("text", ["Điều khoản về hợp đồng lao động. " * 20, "😀漢字" * 100, "a" * 1000, "\n \t" * 50])
def test_windows_fit_a_byte_level_tokenizer(byte_tokenizer: str, text: str) -> None:
    pieces = WindowCutter(byte_tokenizer, 64).cut(text)
    assert "".join(pieces) == text
    assert max(token_count(byte_tokenizer, piece) for piece in pieces) <= 64


def test_windows_begin_at_words() -> None:
    pieces = CUTTERS[16].cut("one two three four five six seven eight nine ten " * 5)
    assert all(
        piece.split(" ")[0] in {"one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"} for piece in pieces
    )


async def test_vectors_come_in_the_order_of_the_texts_in_small_batches() -> None:
    embedder = SteeredEmbedder()
    sizes: list[int] = []

    async def embed(texts: Sequence[str]) -> Embeddings:
        sizes.append(len(texts))
        return await embedder.embed(texts)

    texts = [f"Câu số {number} " + "dài " * (number % 7) for number in range(100)]
    vectors = await ChunkVectors(embed, await embedder.model_info()).of(texts, [10] * 100)
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, [text_vector(text, 384) for text in texts], atol=1e-6)
    assert max(sizes) == BATCH_TEXTS


async def test_long_text_has_the_normalised_mean_of_its_windows() -> None:
    embedder = SteeredEmbedder()
    long = "Hợp đồng thuê nhà ở. " * 60
    vectors = await ChunkVectors(embedder.embed, await embedder.model_info()).of(["ngắn", long], [2, 600])
    windows = [text for text in embedder.texts if text != "ngắn"]
    mean = np.sum([text_vector(text, 384) for text in windows], axis=0)
    assert len(windows) > 4
    assert np.allclose(vectors[1], mean / np.linalg.norm(mean), atol=1e-6)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


async def test_no_texts_give_no_vectors(tmp_path: Path) -> None:
    async def embed(texts: Sequence[str]) -> Embeddings:
        raise AssertionError("nothing to embed")

    model_info = EmbedderInfo("m", 8, 128, 100, ("en",), str(tmp_path / "none.json"), 1)
    assert (await ChunkVectors(embed, model_info).of([], [])).shape == (0, 8)
