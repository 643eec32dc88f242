import asyncio
import contextlib
import hashlib
import unicodedata
from collections.abc import Awaitable

import numpy as np
import psutil
import pytest

from aihub.core.errors import ConfigurationError, InternalError, UnavailableError
from aihub.documents.chunking import TokenCounter
from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.options import ChunkingOptions
from aihub.documents.parsing.parser import DocumentParser
from aihub.documents.search.analysis import analyse
from tests.unit.documents.document_files import docx, pdf

CHUNKING = ChunkingOptions(max_tokens=32, overlap_tokens=8)
CONTRACT = "Điều 1. Hợp đồng lao động là sự thoả thuận giữa hai bên. Người lao động được trả lương hằng tháng.\n\n"


@pytest.mark.parametrize(
    ("filename", "data", "expected"),
    [
        ("a.txt", (CONTRACT * 5).encode(), "txt"),
        ("a.md", ("# Luật\n\n" + CONTRACT).encode(), "md"),
        ("a.html", f"<html><body><p>{CONTRACT}</p></body></html>".encode(), "html"),
        ("a.pdf", pdf("The contract has two parties. It is signed."), "pdf"),
        ("a.docx", docx(CONTRACT, CONTRACT), "docx"),
        ("a.rtf", rb"{\rtf1\ansi Hello \u7879?.\par}", "rtf"),
        ("a.csv", "tên,giá\náo dài,500000\n".encode(), "csv"),
        ("a.json", '{"điều": 1, "nội dung": "hợp đồng"}'.encode(), "json"),
    ],
)
async def test_every_format_gives_text_and_exact_chunks(
    filename: str, data: bytes, expected: str, parser: DocumentParser, counter: TokenCounter
) -> None:
    document = await parser.parse(filename, data, CHUNKING)
    assert document.format == expected
    assert document.text == unicodedata.normalize("NFC", document.text)
    assert [chunk.ordinal for chunk in document.chunks] == list(range(len(document.chunks)))
    for chunk in document.chunks:
        assert chunk.text == document.text[chunk.start_char : chunk.end_char]
        assert chunk.token_count == counter.count([chunk.text])[0] <= 32


async def test_the_named_encoding_reaches_the_parser_process(parser: DocumentParser) -> None:
    data = "Satış".encode("cp1254")
    assert (await parser.parse("a.txt", data, CHUNKING, encoding="cp1254")).text == "Satış"
    with pytest.raises(DocumentError, match="`encoding`"):
        await parser.parse("a.txt", data, CHUNKING)
    assert (await parser.parse("a.txt", data, CHUNKING, encoding="cp1251")).text == data.decode("cp1251")


async def test_chunks_carry_their_terms_for_the_lexical_index(parser: DocumentParser) -> None:
    document = await parser.parse("a.txt", (CONTRACT * 10).encode(), CHUNKING)
    assert len(document.chunks) > 5
    for chunk in document.chunks:
        terms = analyse(chunk.text, document_language="vi")
        assert (chunk.language, chunk.term_total) == (terms.language, terms.total)
        assert np.array_equal(np.frombuffer(chunk.term_ids, "<i4"), terms.term_ids)
        assert np.array_equal(np.frombuffer(chunk.term_freqs, "<u2"), terms.term_freqs)


async def test_the_same_file_always_parses_the_same(parser: DocumentParser) -> None:
    first, second = [await parser.parse("a.txt", CONTRACT.encode() * 20, CHUNKING) for _ in range(2)]
    assert first == second


@pytest.mark.parametrize(
    ("filename", "data", "code"),
    [
        ("a.txt", b"", "empty_file"),
        ("a.bin", bytes(500), "unsupported_file"),
        ("a.pdf", b"%PDF-1.4 nothing", "invalid_file"),
        ("../../etc/passwd", b"", "empty_file"),
        ("a.json", b"[" * 10**6, "invalid_file"),
    ],
)
async def test_files_that_cannot_be_read_end_in_a_typed_error(
    filename: str, data: bytes, code: str, parser: DocumentParser
) -> None:
    with pytest.raises(DocumentError) as caught:
        await parser.parse(filename, data, CHUNKING)
    assert (caught.value.code, caught.value.status, caught.value.param) == (code, 400, "file")
    assert (await parser.parse("a.txt", b"Good.", CHUNKING)).text == "Good."


@pytest.mark.parametrize("line", [b"a" * 50_000_000, b"word " * 10_000_000])
async def test_one_line_of_50_mb_is_refused_at_once(line: bytes, parser: DocumentParser) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(DocumentError) as caught:
            await parser.parse("a.txt", line, CHUNKING)
    assert caught.value.code == "too_large"


async def test_a_large_answer_comes_whole(parser: DocumentParser) -> None:
    text = "".join(f"{number}: {hashlib.sha256(str(number).encode()).hexdigest()} đồng.\n" for number in range(5000))
    document = await parser.parse("a.txt", text.encode(), ChunkingOptions(200, 0))
    assert document.text == text
    assert document.chunks[-1].text.endswith("đồng.")


async def test_many_documents_at_once_all_come_back_in_their_place(tokenizer_path: str) -> None:
    parser = DocumentParser(tokenizer_path, processes=2, recycle_after=7)
    await parser.start()
    try:
        texts = [f"Tài liệu số {number}. " * (number % 5 + 1) for number in range(60)]
        documents = await asyncio.gather(*(parser.parse("a.txt", text.encode(), CHUNKING) for text in texts))
    finally:
        await parser.close()
    assert [document.text for document in documents] == texts


async def test_a_missing_tokenizer_is_a_configuration_error(tmp_path: object) -> None:
    parser = DocumentParser(f"{tmp_path}/tokenizer.json", processes=2)
    with pytest.raises(ConfigurationError, match="tokenizer"):
        await parser.start()


async def test_a_parser_that_does_not_run_says_so(tokenizer_path: str) -> None:
    parser = DocumentParser(tokenizer_path)
    with pytest.raises(UnavailableError):
        await parser.parse("a.txt", b"x", CHUNKING)
    await parser.close()


async def test_processes_end_after_a_pause_and_the_next_documents_start_new_ones(tokenizer_path: str) -> None:
    parser = DocumentParser(tokenizer_path, processes=2, rest_after_s=0.2)
    before = worker_processes()
    await parser.start()
    try:
        assert len(worker_processes() - before) >= 2
        async with asyncio.timeout(20):
            while worker_processes() - before:  # noqa: ASYNC110  # only the kernel knows
                await asyncio.sleep(0.05)
        documents = await asyncio.gather(*(parser.parse("a.txt", b"Xin ch\xc3\xa0o.", CHUNKING) for _ in range(3)))
        assert {document.text for document in documents} == {"Xin chào."}
    finally:
        await parser.close()
    assert worker_processes() <= before


async def test_a_parser_can_be_closed_while_its_processes_end(tokenizer_path: str) -> None:
    parser = DocumentParser(tokenizer_path, processes=2, rest_after_s=0.05)
    before = worker_processes()
    await parser.start()
    await asyncio.sleep(0.06)
    await parser.close()
    assert worker_processes() <= before


def worker_processes() -> set[int]:
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end just now
            if process.status() != psutil.STATUS_ZOMBIE and "aihub.documents.parsing.worker" in process.cmdline():
                found.add(process.pid)
    return found


async def test_text_that_is_given_is_cut_as_it_is(parser: DocumentParser) -> None:
    text = "  <html> hôm nay\n\n\n\nta học luật  \n\n# điều một"
    document = await parser.parse("a.pdf", text.encode(), CHUNKING, text_format="video")
    assert (document.text, document.format) == (text, "video")
    assert [chunk.text for chunk in document.chunks] == [text[chunk.start_char : chunk.end_char] for chunk in document.chunks]
    assert "học luật" in document.chunks[0].text


@pytest.mark.parametrize("text", ["e\u0302", "a\0b", "a\r\nb", "\ufeffa"])
async def test_given_text_in_another_form_is_refused_as_its_offsets_would_not_fit(parser: DocumentParser, text: str) -> None:
    with pytest.raises(InternalError):
        await parser.parse("a.wav", text.encode(), CHUNKING, text_format="audio")


async def test_given_text_without_anything_to_read_is_refused(parser: DocumentParser) -> None:
    with pytest.raises(DocumentError, match="no readable text"):
        await parser.parse("a.wav", b" \n", CHUNKING, text_format="audio")


@pytest.mark.parametrize(
    ("filename", "data"),
    [
        ("a.md", ("# Luật\n\n" + CONTRACT).encode()),
        ("a.pdf", pdf("The contract has two parties.")),
        ("a.docx", docx(CONTRACT, CONTRACT)),
    ],
)
async def test_text_alone_is_the_text_of_the_document(filename: str, data: bytes, parser: DocumentParser) -> None:
    document = await parser.parse(filename, data, CHUNKING)
    assert await parser.extract_text(filename, data, max_characters=1_000) == document.text
    with pytest.raises(DocumentError, match="more than 20 characters") as caught:
        await parser.extract_text(filename, data, max_characters=20)
    assert caught.value.code == "too_large"
    assert (await parser.parse(filename, data, CHUNKING)).chunks, "the limit is of one document alone"


async def test_text_alone_costs_the_parser_a_fraction_of_its_chunks(parser: DocumentParser) -> None:
    data = (CONTRACT * 2_000).encode()

    async def cpu_s(work: Awaitable[object]) -> float:
        processes = [psutil.Process(pid) for pid in worker_processes()]
        before_s = sum(process.cpu_times().user for process in processes)
        await work
        return sum(process.cpu_times().user for process in processes) - before_s

    await parser.extract_text("a.txt", data, max_characters=1_000_000)
    whole_s = await cpu_s(parser.parse("a.txt", data, CHUNKING))
    assert await cpu_s(parser.extract_text("a.txt", data, max_characters=1_000_000)) < whole_s / 5


async def test_large_text_over_the_limit_of_a_chat_is_refused_at_once(parser: DocumentParser) -> None:
    async with asyncio.timeout(5.0):
        with pytest.raises(DocumentError, match="more than 1,000,000"):
            await parser.extract_text("a.txt", b"word " * 2_000_000, max_characters=1_000_000)


async def test_parser_that_does_not_run_extracts_nothing(tokenizer_path: str) -> None:
    with pytest.raises(UnavailableError):
        await DocumentParser(tokenizer_path).extract_text("a.txt", b"a", max_characters=10)
