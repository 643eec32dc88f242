import pytest

from aihub.documents.chunking import TokenCounter
from pipelines.query import QueryChooser, SearchQuery
from tests.unit.documents.ingest_parts import minilm_tokenizer
from tests.unit.pipelines.rag_parts import CardOnlyEmbedder

FILLER = "The report repeats that the weather was fine all week. "


@pytest.fixture(scope="module")
def tokenizer() -> str:
    return minilm_tokenizer()


async def choose(tokenizer: str, message: str) -> SearchQuery:
    return await QueryChooser(CardOnlyEmbedder(tokenizer)).choose(message)


def tokens(tokenizer: str, text: str) -> int:
    return TokenCounter(tokenizer).count([text])[0]


async def test_short_message_is_the_query_and_needs_no_tokenizer() -> None:
    assert await choose("/missing/tokenizer.json", "Giá phở?") == SearchQuery("Giá phở?", is_shortened=False)


async def test_message_at_the_limit_is_kept_whole(tokenizer: str) -> None:
    message = " ".join(["word"] * 254)
    assert await choose(tokenizer, message) == SearchQuery(message, is_shortened=False)


async def test_message_over_the_limit_is_reported_as_shortened(tokenizer: str) -> None:
    query = await choose(tokenizer, FILLER * 60)
    assert query.is_shortened
    assert tokens(tokenizer, query.text) <= 254


@pytest.mark.parametrize("place", ["start", "middle", "end"])
async def test_the_question_is_kept_wherever_it_stands(tokenizer: str, place: str) -> None:
    question = "How long does the Falcon battery last?"
    before = {"start": 0, "middle": 60, "end": 120}[place]
    query = await choose(tokenizer, FILLER * before + question + " " + FILLER * (120 - before))
    assert question in query.text


async def test_without_a_question_the_end_is_kept(tokenizer: str) -> None:
    query = await choose(tokenizer, FILLER * 60 + "Tell me the price of the Falcon.")
    assert query.text.endswith("Tell me the price of the Falcon.")


async def test_vietnamese_question_is_kept(tokenizer: str) -> None:
    query = await choose(tokenizer, "Hôm nay trời đẹp và quán đông khách. " * 60 + "Phở bò giá bao nhiêu? " + "Cảm ơn bạn. " * 5)
    assert "Phở bò giá bao nhiêu?" in query.text
    assert tokens(tokenizer, query.text) <= 254


async def test_chosen_sentences_keep_their_order(tokenizer: str) -> None:
    query = await choose(tokenizer, "Alpha comes first? " + FILLER * 60 + "Omega comes last.")
    assert query.text.index("Alpha") < query.text.index("Omega")


@pytest.mark.parametrize("message", ["word " * 5000, "x" * 100_000, "漢" * 5000, "🙂" * 3000, "a\u0301" * 4000])
async def test_text_without_sentences_gives_its_end(tokenizer: str, message: str) -> None:
    query = await choose(tokenizer, message)
    assert query.is_shortened or tokens(tokenizer, message) <= 254
    assert query.text.strip()
    assert message.rstrip().endswith(query.text[-50:].rstrip())
    assert tokens(tokenizer, query.text) <= 254


async def test_a_million_characters_are_chosen_from_quickly(tokenizer: str) -> None:
    query = await choose(tokenizer, FILLER * 18_000 + "What is the price?")
    assert "What is the price?" in query.text
