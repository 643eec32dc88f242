"""What no decoder likes: each file is decoded or refused in words within its time, and then a good one works."""

import io
import math
import struct
import time
import zipfile
import zlib
from collections.abc import AsyncIterator

import numpy as np
import pytest
from PIL import Image

from aihub.media.decoder import SandboxedDecoder
from aihub.media.service import MediaError
from tests.unit.media.media_files import encoded_audio, image, speech_like, spoken_wav, video, wav

GOOD = spoken_wav(0.2)
LONGEST_S = 8.0
DECODED = None
NOISE = np.random.default_rng(3).bytes(60_000)
M4A = encoded_audio("mp4", "aac")
OGG = encoded_audio("ogg", "libopus", 6.0)


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("speech.wav", data)
    return file.getvalue()


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG that claims a size, with whatever pixels."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def text_bomb() -> bytes:
    """A PNG of one pixel with 64 MB of comment in 64 KB."""
    comment = b"zTXt" + b"a\0\0" + zlib.compress(bytes(2**26), 9)
    chunk = struct.pack(">I", len(comment) - 4) + comment + struct.pack(">I", zlib.crc32(comment))
    return (start := png(1, 1, b"\0\1\2\3"))[:33] + chunk + start[33:]


def flipped(data: bytes) -> bytes:
    """Every hundredth byte between the header and an index is wrong."""
    end = data.find(b"moov") if b"moov" in data else len(data)
    return data[:600] + bytes(byte ^ 0xFF if at % 100 == 99 else byte for at, byte in enumerate(data[600:end])) + data[end:]


def without_time(mp4: bytes) -> bytes:
    """A video whose frames are all shown at once, and whose durations are 0."""
    data = bytearray(mp4)
    for box, at in ((b"mvhd", 16), (b"tkhd", 20), (b"mdhd", 16)):
        struct.pack_into(">I", data, data.index(box) + 4 + at, 0)
    table = data.index(b"stts") + 8
    for entry in range(struct.unpack_from(">I", data, table)[0]):
        struct.pack_into(">I", data, table + 8 + 8 * entry, 0)
    return bytes(data)


def floats(value: float) -> bytes:
    return wav(np.full(16_000, value, "<f4").tobytes(), encoding=3, bits=32)


AUDIO: dict[str, tuple[bytes, str | None]] = {
    "zero bytes": (b"", "empty_media"),
    "one byte": (b"R", "unsupported_media"),
    "header only": (wav(b""), "empty_media"),
    "half a header": (GOOD[:20], "invalid_media"),
    "one sample": (wav(b"\1\0"), DECODED),
    "half a sample": (wav(b"\1"), "invalid_media"),
    "8 h claimed": (wav(GOOD[44:], data_bytes=8 * 3600 * 32_000), DECODED),
    "RIFF size of a stream": (wav(GOOD[44:], data_bytes=2**32 - 1), DECODED),
    "RIFF size 0": (wav(GOOD[44:], data_bytes=0), DECODED),
    "RIFF size that lies": (GOOD[:4] + struct.pack("<I", 7) + GOOD[8:], DECODED),
    "0 Hz": (spoken_wav(rate_hz=0), "invalid_media"),
    "8 Hz": (spoken_wav(rate_hz=8), "invalid_media"),
    "768 kHz": (spoken_wav(rate_hz=768_000), DECODED),
    "4 GHz": (spoken_wav(rate_hz=2**32 - 1), "invalid_media"),
    "0 channels": (wav(bytes(1_000), channels=0), "invalid_media"),
    "8 channels": (wav(np.repeat(speech_like(0.2), 8).tobytes(), channels=8), DECODED),
    "64 channels": (wav(np.repeat(speech_like(0.2), 64).tobytes(), channels=64), DECODED),
    "32,000 channels": (wav(bytes(64_000), channels=32_000), "invalid_media"),
    "0 bits": (wav(bytes(1_000), bits=0), "unsupported_media"),
    "unknown encoding": (wav(bytes(1_000), encoding=0x1234), "unsupported_media"),
    "MP3 named wav": (encoded_audio("mp3", "libmp3lame"), DECODED),
    "HTML named wav": (b"<!DOCTYPE html><html><body>404</body></html>", "unsupported_media"),
    "WAV in ZIP": (zipped(GOOD), "unsupported_media"),
    "PDF": (b"%PDF-1.7\n", "unsupported_media"),
    "text": ("Xin chào, đây là văn bản.".encode(), "unsupported_media"),
    "text in UTF-16": ("Xin chào".encode("utf-16"), "unsupported_media"),
    "zeros": (wav(bytes(32_000)), DECODED),
    "zeros without a header": (bytes(100_000), "unsupported_media"),
    "NaN": (floats(math.nan), DECODED),
    "infinity": (floats(math.inf), DECODED),
    "clipping noise": (wav(np.random.default_rng(1).choice([-32_768, 32_767], 16_000).astype("<i2").tobytes()), DECODED),
    "odd byte count": (GOOD + b"\1", DECODED),
    "MP3 of noise": (b"\xff\xfb" + NOISE, "invalid_media"),
    "Ogg of noise": (b"OggS" + NOISE, "invalid_media"),
    "M4A of noise": (b"\0\0\0\x18ftypM4A " + NOISE, "invalid_media"),
    "WebM of noise": (b"\x1aE\xdf\xa3" + NOISE, "invalid_media"),
    "noise": (b"\0" + NOISE, "unsupported_media"),
    "M4A without its index": (M4A[: M4A.index(b"moov") - 4], "invalid_media"),
    "index without the M4A": (M4A[M4A.index(b"moov") - 4 :], "invalid_media"),
    "Ogg with one page": (OGG[:60], "invalid_media"),
    "FLAC without frames": (encoded_audio("flac", "flac")[:60], "invalid_media"),
    "ID3 that claims 256 MB": (b"ID3\4\0\0\x7f\x7f\x7f\x7f" + encoded_audio("mp3", "libmp3lame"), "invalid_media"),
    "flipped M4A": (flipped(M4A), DECODED),
    "flipped MP3": (flipped(encoded_audio("mp3", "libmp3lame")), DECODED),
    "flipped FLAC": (flipped(encoded_audio("flac", "flac")), DECODED),
    "image": (image(), "no_audio"),
    "video without sound": (video(range(0, 400, 40)), "no_audio"),
    "playlist": (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n", "unsupported_media"),
}

IMAGES: dict[str, tuple[bytes, str | None]] = {
    "zero bytes": (b"", "empty_media"),
    "signature only": (b"\x89PNG\r\n\x1a\n", "invalid_media"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", "unsupported_media"),
    "SVG behind a prologue": (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a -->\n<!DOCTYPE svg>\n<svg/>", "unsupported_media"),
    "packed SVG": (zlib.compress(b"<svg/>", wbits=31), "unsupported_media"),
    "HTML": (b"<html><img src=x></html>", "unsupported_media"),
    "one pixel": (image(size=(1, 1)), DECODED),
    "no pixels": (png(0, 9), "invalid_media"),
    "100 megapixels as PNG": (image(size=(10_000, 10_000), mode="1", color=0), "image_too_large"),
    "100 megapixels as JPEG": (image("JPEG", size=(10_000, 10_000), mode="L", color=3), DECODED),
    "400 megapixels as JPEG": (image("JPEG", size=(20_000, 20_000), mode="L", color=3), "image_too_large"),
    "3.6 gigapixels claimed": (png(60_000, 60_000), "image_too_large"),
    "2^31 pixels wide": (png(2**31 - 1, 1), "image_too_large"),
    "GIF that claims 4 gigapixels": (
        b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b"," + bytes(4) + b"\xff" * 4 + b"\0\2\2L\1\0;",
        "image_too_large",
    ),
    "WebP that claims 268 megapixels": (
        b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\2\0\0\0\xff\x3f\0\xff\x3f\0" + bytes(8),
        "invalid_media",
    ),
    "48 megapixels of zeros in a PNG": (png(6_900, 6_900, bytes(6_900 * (6_900 * 3 + 1))), DECODED),
    "64 MB of comment": (text_bomb(), "invalid_media"),
    "JPEG of noise": (b"\xff\xd8\xff" + NOISE, "invalid_media"),
    "TIFF of noise": (b"II*\0" + NOISE, "invalid_media"),
    "TIFF that points at itself": (b"II*\0\x08\0\0\0\0\0\x08\0\0\0", "invalid_media"),
    "BMP of noise": (b"BM" + NOISE[:12] + b"\x28\0\0\0" + NOISE, "invalid_media"),
    "two letters": (b"BM wrote this text, which is no image.", "unsupported_media"),
    "WAV": (GOOD, "not_an_image"),
    "video": (video(range(0, 400, 40)), "not_an_image"),
}

VIDEOS: dict[str, tuple[bytes, str | None]] = {
    "zero bytes": (b"", "empty_media"),
    "MP4 of noise": (b"\0\0\0\x18ftypisom" + NOISE, "invalid_media"),
    "WebM of noise": (b"\x1aE\xdf\xa3" + NOISE, "invalid_media"),
    "sound alone": (M4A, "no_video"),
    "animated GIF": (image("GIF"), "no_video"),
    "flipped": (flipped(video(range(0, 4_000, 40), size=(320, 240))), DECODED),
    "cut off before its index": (video(range(0, 4_000, 40))[:2_000], "invalid_media"),
    "zero duration": (without_time(video(range(0, 400, 40), codec="mpeg4")), DECODED),
    "one frame": (video([0]), DECODED),
}


async def hear(decoder: SandboxedDecoder, data: bytes) -> bytes:
    return b"".join([piece async for piece in decoder.decode_audio(data, max_duration_s=3600)])


async def outcome(decoder: SandboxedDecoder, kind: str, data: bytes) -> str | None:
    try:
        match kind:
            case "audio":
                assert await hear(decoder, data)
            case "image":
                prepared = await decoder.prepare_image(data, max_pixels=100_000)
                assert Image.open(io.BytesIO(prepared.data)).size == (prepared.width, prepared.height)
            case _:
                assert (await decoder.sample_video(data, max_frames=4, max_pixels=10_000, max_duration_s=3600)).frames
    except MediaError as error:
        assert error.status == 400 and len(error.message) > 15 and "0x" not in error.message
        return error.code
    return DECODED


CASES = [(kind, name) for kind, files in (("audio", AUDIO), ("image", IMAGES), ("video", VIDEOS)) for name in files]


@pytest.mark.parametrize(("kind", "name"), CASES)
async def test_a_bad_file_ends_in_words_and_a_good_one_follows(kind: str, name: str, decoder: SandboxedDecoder) -> None:
    data, code = {"audio": AUDIO, "image": IMAGES, "video": VIDEOS}[kind][name]
    await hear(decoder, GOOD)  # the process is there
    start = time.monotonic()
    assert await outcome(decoder, kind, data) == code
    assert time.monotonic() - start < LONGEST_S
    assert await hear(decoder, GOOD) == GOOD[44:]


@pytest.mark.parametrize("name", AUDIO)
async def test_a_bad_file_that_comes_in_pieces_ends_in_words_too(name: str, decoder: SandboxedDecoder) -> None:
    data, code = AUDIO[name]

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 3_000):
            yield data[start : start + 3_000]

    found: str | None = DECODED
    try:
        heard = [piece async for piece in decoder.decode_audio(pieces(), max_duration_s=3600)]
        assert heard
    except MediaError as error:
        found = error.code
    assert found == code
    assert await hear(decoder, GOOD) == GOOD[44:]
