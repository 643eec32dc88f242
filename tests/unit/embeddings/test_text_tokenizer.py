import re
from pathlib import Path
from typing import Any

import pytest

from aihub.core.errors import ContextLengthError, InvalidRequestError
from aihub.embeddings.encoders import TextTokenizer
from aihub.embeddings.schemas import MAX_INPUTS
from tests.unit.models.store.toy_models import WORDS, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return TextTokenizer(Path(folder / "tokenizer.json"), max_tokens=12, vocabulary_size=len(WORDS))


def test_special_tokens_are_added_and_the_file_s_padding_and_truncation_are_off(tokenizer: TextTokenizer) -> None:
    assert [row.tolist() for row in tokenizer.encode(["the capital of japan", "a"])] == [
        [2, WORDS.index("the"), WORDS.index("capital"), WORDS.index("of"), WORDS.index("japan"), 3],
        [2, WORDS.index("a"), 3],
    ]
    assert len(tokenizer.encode(["a " * 10])[0]) == 12


def test_token_ids_mean_the_same_as_their_text(tokenizer: TextTokenizer) -> None:
    ids = [[WORDS.index("the"), WORDS.index("shop")], [WORDS.index("a")]]
    from_ids, from_text = tokenizer.encode(ids), tokenizer.encode(["the shop", "a"])
    assert [row.tolist() for row in from_ids] == [row.tolist() for row in from_text]


BAD: dict[str, tuple[list[Any], str]] = {
    "nothing": ([], "empty"),
    "empty text": (["a", ""], "Input 1"),
    "list of empties": (["", "", ""], "Input 0"),
    "spaces only": (["a", " \t\n\u00a0\u3000"], "Input 1"),
    "nothing the model knows": (["\u200b", "\ufeff"], "Input 0"),
    "half a surrogate pair": (["a", "b\ud800"], "Input 1"),
    "no tokens": ([[1], []], "Input 1"),
    "a negative token": ([[4, -1]], "-1"),
    "a token past the vocabulary": ([[4], [len(WORDS)]], f"token {len(WORDS)}"),
    "a huge token": ([[2**63]], str(2**63)),
    "too many inputs": (["a"] * (MAX_INPUTS + 1), str(MAX_INPUTS + 1)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_what_is_wrong_with_it(tokenizer: TextTokenizer, name: str) -> None:
    inputs, said = BAD[name]
    with pytest.raises(InvalidRequestError, match=re.escape(said)) as raised:
        tokenizer.encode(inputs)
    assert raised.value.param == "input"
    assert len(tokenizer.encode(["a"])) == 1


@pytest.mark.parametrize("inputs", [["a", "a " * 11], [[4], [4] * 11]])
def test_an_input_over_the_limit_is_refused_with_both_lengths(tokenizer: TextTokenizer, inputs: list[Any]) -> None:
    with pytest.raises(ContextLengthError, match=r"Input 1 has 13 tokens.* at most 12"):
        tokenizer.encode(inputs)


def test_megabytes_of_text_are_refused_unread(tokenizer: TextTokenizer) -> None:
    with pytest.raises(ContextLengthError, match=r"Input 0 has 5000000 characters.* 12 tokens"):
        tokenizer.encode(["x" * 5_000_000])
