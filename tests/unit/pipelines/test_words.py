import asyncio

from pipelines.sentence_index import Word, content_words, words


def test_words_are_case_folded_and_stemmed() -> None:
    assert [word.exact for word in words("Batteries LAST, refunded!")] == ["batteri", "last", "refund"]


def test_vietnamese_words_keep_their_marks_and_have_a_plain_form() -> None:
    assert list(words("Đường phở")) == [Word("đường", "duong"), Word("phở", "pho")]


def test_composed_and_decomposed_letters_are_the_same_word() -> None:
    assert list(words("tie\u0302\u0301ng")) == list(words("tiếng"))


def test_numbers_with_separators_are_one_word() -> None:
    assert [word.exact for word in words("giá 65.000đ, 2.5% hoặc 1,250.75")] == ["giá", "65.000", "đ", "2.5", "hoặc", "1,250.75"]


def test_function_words_are_no_content() -> None:
    text = "According to the sources, because of this, during it; theo các nguồn của họ, Battery lasts"
    assert [word.exact for word in content_words(text)] == ["họ", "batteri", "last"]


async def test_threads_agree() -> None:
    texts = [f"running batteries number{n}" for n in range(20)]
    found = await asyncio.gather(*(asyncio.to_thread(_exact, text) for text in texts))
    assert [each[:2] for each in found] == [["run", "batteri"]] * 20


def _exact(text: str) -> list[str]:
    return [word.exact for word in words(text)]
