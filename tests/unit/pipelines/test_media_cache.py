import asyncio

from aihub.speech.service import Segment, Transcript
from pipelines.media_cache import TextCache


def transcript(*texts: str) -> Transcript:
    return Transcript("vosk:en", "en", 1.0, tuple(Segment(text, 0.0, 1.0) for text in texts))


async def test_text_is_found_by_tenant_bytes_and_how_it_was_read() -> None:
    cache = TextCache()
    key = await cache.key("a", b"data", "document", ".md")
    cache.put(key, "text")
    assert cache.get(await cache.key("a", b"data", "document", ".md")) == "text"
    for other in (("b", b"data", "document", ".md"), ("a", b"date", "document", ".md"), ("a", b"data", "document", ".txt")):
        assert cache.get(await cache.key(*other)) is None


async def test_what_was_unused_for_longest_goes_first() -> None:
    cache = TextCache(max_bytes=8_000)
    keys = [await cache.key("a", bytes([number])) for number in range(5)]
    for key in keys[:4]:
        cache.put(key, "x" * 1_500)
    assert cache.get(keys[0]) is not None
    cache.put(keys[4], "x" * 1_500)
    assert [cache.get(key) is not None for key in keys] == [True, False, True, True, True]


async def test_size_is_bounded_whatever_comes() -> None:
    cache = TextCache(max_bytes=20_000)

    async def fill(caller: int) -> None:
        for number in range(200):
            key = await cache.key(f"tenant-{caller}", b"%d" % (number % 50))
            cache.put(key, "x" * number if number % 2 else transcript(*["word"] * (number % 9)))
            await asyncio.sleep(0.0)
            assert 0 < cache.size_bytes <= 20_000

    await asyncio.gather(*(fill(caller) for caller in range(10)))
    assert cache.size_bytes == sum(size for _, size in cache._entries.values())


async def test_text_that_would_drive_out_all_others_is_not_kept() -> None:
    cache = TextCache(max_bytes=8_000)
    small, large = await cache.key("a", b"small"), await cache.key("a", b"large")
    cache.put(small, "x")
    cache.put(large, "x" * 4_000)
    assert (cache.get(small), cache.get(large)) == ("x", None)


async def test_keeping_a_text_twice_counts_it_once() -> None:
    cache = TextCache()
    key = await cache.key("a", b"data" * 100_000)
    cache.put(key, "text")
    size_bytes = cache.size_bytes
    cache.put(key, "text")
    assert cache.size_bytes == size_bytes
