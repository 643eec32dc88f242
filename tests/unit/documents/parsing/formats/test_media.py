"""What begins as a recording, a video or an image, told from everything else."""

import io
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from aihub.documents.parsing.formats.media import begins_as_media
from tests.unit.documents.document_files import docx, pdf
from tests.unit.documents.media_parts import wav

AUDIO = [
    ("wav", "pcm_s16le"),
    ("flac", "flac"),
    ("mp3", "libmp3lame"),
    ("ogg", "libopus"),
    ("ipod", "aac"),
    ("adts", "aac"),
    ("mp2", "mp2"),
    ("webm", "libopus"),
    ("aiff", "pcm_s16be"),
    ("au", "pcm_s16be"),
    ("caf", "pcm_s16be"),
    ("asf", "mp2"),
]
VIDEO = [("mp4", "mpeg4"), ("mov", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mpeg4"), ("mpegts", "mpeg2video"), ("flv", "flv1")]
IMAGES = ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]


def audio(container: str, codec: str, **options: Any) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=48_000)
        samples = np.zeros((1, 48_000), dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 48_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return file.getvalue()


def video(container: str, codec: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), dtype=np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)
    return file.getvalue()


def image(file_format: str, size: tuple[int, int] = (40, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, file_format)
    return file.getvalue()


@pytest.mark.parametrize(("container", "codec"), AUDIO)
def test_recordings_are_known_by_their_content(container: str, codec: str) -> None:
    assert begins_as_media(audio(container, codec))


@pytest.mark.parametrize(("container", "codec"), VIDEO)
def test_videos_are_known_by_their_content(container: str, codec: str) -> None:
    assert begins_as_media(video(container, codec))


@pytest.mark.parametrize("file_format", IMAGES)
@pytest.mark.parametrize("size", [(1, 1), (40, 30), (2304, 2560)])
def test_images_are_known_by_their_content(file_format: str, size: tuple[int, int]) -> None:
    assert begins_as_media(image(file_format, size))


def test_mp3_without_tags_is_known_by_its_first_frame() -> None:
    assert begins_as_media(audio("mp3", "libmp3lame", write_xing="0", id3v2_version="0"))


@pytest.mark.parametrize("kept", [44, 60])
def test_header_that_is_cut_off_is_still_a_recording(kept: int) -> None:
    assert begins_as_media(wav()[:kept])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"RIFF (a WAVE file begins so) is a container of Microsoft and IBM, of 1991.",
        b"GIF89a is what an animated image begins with.\nIt has many frames.",
        b"BMW is a maker of cars in Munich, since 1916.",
        b"ID3 tags hold the title of a song.",
        b"OggS marks every page.",
        b"fLaC is the magic of FLAC.",
        b"FORM of AIFF files, and FORMAIFF1234AIFF more.",
        b"The ftyp box of MP4 comes first.",
        b"free software, wide use, moov and mdat boxes",
        b"#!/bin/sh\necho AMR",
        b"G" * 1000,
        b"GATTACA" * 200,
        "Điều 1. Hợp đồng lao động.".encode(),
        "Satış sözleşmesi".encode("utf-16"),
        "Satış sözleşmesi".encode("utf-16-be"),
        "ÿþ".encode("latin-1") + b" abc",
        b"\xef\xbb\xbf# Title",
        b'<svg xmlns="http://www.w3.org/2000/svg"><text>Hi</text></svg>',
        pdf("The contract."),
        docx("Hợp đồng."),
        b"PK\x03\x04" + bytes(100),
        b"\x7fELF" + bytes(2000),
        bytes(2000),
    ],
)
def test_everything_else_is_left_to_the_parser(data: bytes) -> None:
    assert not begins_as_media(data)
