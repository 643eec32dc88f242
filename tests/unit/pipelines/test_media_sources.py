import base64
from typing import Any, cast

import pytest

from aihub.chat.parts import ImagePart
from aihub.core.errors import InvalidRequestError
from aihub.core.limits import MAX_MEDIA_BYTES
from aihub.core.principal import Principal
from aihub.core.schemas import validate
from aihub.documents.service import FileService
from pipelines.media_sources import ByteBudget, SourceReader, decode_base64
from tests.unit.pipelines.media_fakes import PNG, MemoryFiles, url

CALLER = Principal()


def part(**fields: Any) -> ImagePart:
    return validate(ImagePart, {"type": "image_url", "image_url": fields})


async def read(reader: SourceReader, image: ImagePart, budget: ByteBudget | None = None) -> bytes:
    file = await reader.read(CALLER, image, "here", max_bytes=1_000, budget=budget or ByteBudget())
    return file.data


@pytest.mark.parametrize("data", [b"a", b"ab", b"abc", bytes(range(256)), b"x" * 200_000])
async def test_base64_is_decoded_small_and_large(data: bytes) -> None:
    reader = SourceReader(cast(FileService, MemoryFiles()), None)
    assert await read(reader, part(url=url(data))) == data


@pytest.mark.parametrize("text", ["AAA", "A===", "AA=A", "AAAA\n", " AAAA", "AA-_", "áAAA", "%41%41", "AAAA,", "=", "AA==AA=="])
def test_what_is_no_strict_base64_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode_base64(text)
    assert caught.value.code == "invalid_base64"


def test_decoding_is_the_inverse_of_encoding_for_any_length() -> None:
    for length in range(64):
        data = bytes(range(length))
        assert decode_base64(base64.b64encode(data).decode()) == data


async def test_budget_of_a_request_gets_back_what_a_fetch_did_not_need() -> None:
    class Fetcher:
        async def fetch(self, url: str, *, max_bytes: int) -> bytes:
            assert max_bytes == 1_000
            return PNG

    budget = ByteBudget()
    reader = SourceReader(cast(FileService, MemoryFiles()), Fetcher())
    assert await read(reader, part(url="https://example.org/a.png"), budget) == PNG
    assert budget.left == MAX_MEDIA_BYTES - len(PNG)


async def test_empty_upload_is_refused_by_field() -> None:
    files = MemoryFiles()
    files.add("file-1", "a.png", b"")
    with pytest.raises(InvalidRequestError) as caught:
        await read(SourceReader(cast(FileService, files), None), part(file_id="file-1"))
    assert (caught.value.param, caught.value.code) == ("here", "media_empty")
