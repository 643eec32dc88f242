"""Words of any text, as far as finding quotes needs them."""

import re
import threading
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

_WORD = re.compile(r"\d+(?:[.,]\d+)+|\w+")
_local = threading.local()

STOP_WORDS = frozenset(
    # Function words, and words answers are wrapped in ("according to the sources"), of English and Vietnamese.
    """a about according after all also an and answer any are as at be because been before being both but by can could did do
    does during each for from had has have he her his how i if in into is it its may me might more most my no not of on
    only or other our question out over s she should so some source sources such t than that the their them then there
    these they this those through to under until up very was we were what when where which while who whom why will with
    would you your
    bằng bị bởi các cái cho chỉ chưa có cả của cùng cũng câu do gì hay hoặc hỏi khi không là lại mà nguồn mỗi một nào này
    nên nếu như nhưng những nó ở ra rằng rất sau sẽ sự tại theo thì trên trong trả trước từ và vào vì với về được đã đang
    đây đến đó để""".split()
)


class Word(NamedTuple):
    """A word as written (case folded, English plural and verb endings off) and the same without diacritics."""

    exact: str
    plain: str

    @property
    def is_marked(self) -> bool:
        return self.exact != self.plain


def words(text: str) -> Iterator[Word]:
    """Yield the words of `text`; any Unicode letters and digits count."""
    return (_word(found) for found in _folded_words(text))


def content_words(text: str) -> Iterator[Word]:
    """Yield the words which say what `text` is about."""
    return (_word(found) for found in _folded_words(text) if found not in STOP_WORDS)


def _folded_words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


@lru_cache(maxsize=65_536)
def _word(text: str) -> Word:
    exact = _stemmer().stemWord(text) if text.isascii() and len(text) > 3 else text
    plain = "".join(c for c in unicodedata.normalize("NFD", exact) if not unicodedata.combining(c)).replace("đ", "d")
    return Word(exact, plain)


def _stemmer() -> Any:
    # Stemmer objects must not be shared between threads.
    if not hasattr(_local, "stemmer"):
        import Stemmer

        _local.stemmer = Stemmer.Stemmer("english")
    return _local.stemmer
