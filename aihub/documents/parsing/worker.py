"""The parser process: `python -m aihub.documents.parsing.worker`, started by `aihub.documents.parsing.parser`.

Loading takes about two seconds: the tokenizer and the parsers. One frame is the answer to each document.
"""

import logging
from dataclasses import replace
from typing import Any, NoReturn

from aihub.core.errors import HubError
from aihub.core.language import detect_language
from aihub.core.sandbox.frames import Frame
from aihub.core.sandbox.launcher import Answer, Channel, run_launcher
from aihub.documents.chunking import TokenCounter, chunk_text
from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.extract import extract
from aihub.documents.parsing.options import ChunkingOptions, ParseLimits
from aihub.documents.search.analysis import MIN_LETTERS, analyse

logger = logging.getLogger(__name__)


class _Reader:
    """Reads documents.

    Args:
        counter: Measures the chunks.
        limits: Of each document.
    """

    def __init__(self, counter: TokenCounter, limits: ParseLimits) -> None:
        self._counter = counter
        self._limits = limits

    def answer(self, request: Frame, channel: Channel) -> None:
        """Send the text of one document and, unless `only_text` is asked for, its chunks; or what is wrong with it."""
        channel.send(self._read(request))

    def _read(self, request: Frame) -> Frame:
        try:
            return self._parse(request)
        except MemoryError:
            raise
        except HubError as error:
            kind = "document" if isinstance(error, DocumentError) else "request"
            return Frame({"error": {"kind": kind, "message": error.message, "code": error.code, "param": error.param}})
        except Exception:
            logger.exception("chunking or analysis failed")
            return Frame({"error": {"kind": "internal"}})

    def _parse(self, request: Frame) -> Frame:
        file_format, text = extract(
            request.header["filename"],
            bytes(request.body),
            replace(self._limits, max_characters=request.header["max_characters"]),
            encoding=request.header["encoding"],
            text_format=request.header["text_format"],
        )
        encoded = text.encode()
        if request.header["only_text"]:
            return Frame({"format": file_format, "text_bytes": len(encoded), "chunks": []}, encoded)
        options = ChunkingOptions(request.header["max_tokens"], request.header["overlap_tokens"])
        language: str | None = None  # of the whole text; costs a millisecond and serves only chunks with few letters
        rows: list[list[int | str]] = []
        ids: list[bytes] = []
        freqs: list[bytes] = []
        for span in chunk_text(text, options, self._counter, max_chunks=self._limits.max_chunks):
            chunk = text[span.start : span.end]
            if language is None and sum(map(str.isalpha, chunk)) < MIN_LETTERS:
                language = detect_language(text)
            terms = analyse(chunk, document_language=language)
            rows.append([span.start, span.end, span.tokens, terms.language, len(terms.term_ids), terms.total])
            ids.append(terms.term_ids.astype("<i4").tobytes())
            freqs.append(terms.term_freqs.astype("<u2").tobytes())
        header = {"format": file_format, "text_bytes": len(encoded), "chunks": rows}
        return Frame(header, b"".join((encoded, *ids, *freqs)))


def _load(options: dict[str, Any]) -> Answer:
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    counter = TokenCounter(options["tokenizer_path"])
    detect_language("loads the language model")
    return _Reader(counter, ParseLimits(**options["limits"])).answer


def main() -> NoReturn:
    """Run until the hub closes the pipe or dies."""
    run_launcher(_load)


if __name__ == "__main__":
    main()
