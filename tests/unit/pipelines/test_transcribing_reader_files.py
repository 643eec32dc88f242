"""Real files through the real decoder: bad ones are refused with a reason, and the next one is read."""

import pytest

from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.formats.media import begins_as_media
from aihub.media.decoder import SandboxedDecoder
from tests.unit.documents.media_parts import wav
from tests.unit.documents.parsing.formats.test_media import audio, image, video
from tests.unit.pipelines.test_transcribing_reader import CALLER, reader

BAD = {
    "a WAV cut inside its header": (wav()[:20], "invalid_file"),
    "a FLAC cut behind its header": (audio("flac", "flac")[:100], "invalid_file"),
    "an MP4 without its index": (video("mp4", "mpeg4")[:200], "invalid_file"),
    "a video without sound": (video("mp4", "mpeg4"), "unsupported_file"),
    "a format that is not read": (video("avi", "mpeg4"), "unsupported_file"),
    "an image cut in the middle": (image("JPEG", (640, 480))[:1500], "invalid_file"),
    "an image of 108 megapixels": (image("PNG", (12_000, 9_000)), "too_large"),
}
GOOD = {"audio": wav(2.0), "image": image("PNG")}


async def test_each_bad_file_is_refused_and_good_ones_are_read_after_it() -> None:
    decoder = SandboxedDecoder(1)
    reading = reader(decoder=decoder)
    try:
        for name, (data, code) in BAD.items():
            assert begins_as_media(data), name
            with pytest.raises(DocumentError) as refused:
                await reading.read(CALLER, data)
            assert (refused.value.code, bool(refused.value.message)) == (code, True), name
            for kind, good in GOOD.items():
                media = await reading.read(CALLER, good)
                assert (media.kind, bool(media.text)) == (kind, True), name
    finally:
        await decoder.close()
