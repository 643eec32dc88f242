"""Which files are recordings, videos or images, told by their first bytes, before anything is started to decode them."""

import re

_HEAD_BYTES = 64

# Each holds bytes that no text has at that place.
_SIGNATURES = re.compile(
    rb"""
    \x89PNG\r\n\x1a\n
    | \xff\xd8\xff                                        # JPEG
    | GIF8[79]a(?=.{0,6}[\x00-\x08\x0b\x0c\x0e-\x1f])
    | BM.{4}\x00{4}                                       # BMP
    | (?:II\*\x00|MM\x00\*)                               # TIFF
    | (?:RIFF|RF64|FORM)(?=[^\x00]{0,19}\x00).{4}(?:WAVE|AVI\x20|WEBP|AIF[FC])
    | \.snd\x00
    | caff\x00
    | fLaC[\x00\x80]
    | OggS\x00
    | ID3[\x02-\x04][\x00-\x09]
    | \xff[\xe2\xe3\xf2-\xf5\xfa-\xfd][\x10-\xef]         # MPEG audio of layers II and III; \xff\xfe marks UTF-16
    | \xff[\xf0\xf1\xf8\xf9][\x00-\xbf]                   # AAC in ADTS frames
    | \#!AMR(?:-WB)?\n
    | \x1a\x45\xdf\xa3                                    # Matroska and WebM
    | \x00.{3}(?:ftyp|moov|mdat|wide|free|skip)           # MP4, M4A, MOV, 3GP, HEIC, AVIF
    | \x30\x26\xb2\x75\x8e\x66\xcf\x11                    # ASF: WMA and WMV
    | FLV\x01
    | \x00\x00\x01[\xba\xb3]                              # MPEG-1 and MPEG-2
    """,
    re.VERBOSE | re.DOTALL,
)
_TRANSPORT_PACKET_BYTES = 188
_SYNC = 0x47


def begins_as_media(data: bytes) -> bool:
    """Whether `data` begins as a recording, a video or an image does; it may be damaged all the same."""
    return _SIGNATURES.match(data[:_HEAD_BYTES]) is not None or _is_transport_stream(data)


def _is_transport_stream(data: bytes) -> bool:
    packets = data[: 3 * _TRANSPORT_PACKET_BYTES]
    starts = packets[::_TRANSPORT_PACKET_BYTES]
    return len(starts) == 3 and all(byte == _SYNC for byte in starts) and (b"\0" in packets or b"\xff" in packets)
