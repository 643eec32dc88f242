"""What one file may take of a media process, beside what the caller bounds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Bounds of decoding; the kernel holds the process to the first two.

    Attributes:
        memory_mb: MiB of address space beyond what the idle process has.
        cpu_s: Seconds of processor time for one file, or for one stream from its start to its end.
        step_s: Seconds until the next piece of an answer; what the sender of a stream waits does not count.
        max_image_pixels: Pixels of an image or video frame as it is decoded. Larger JPEG files are decoded at 1/2, 1/4 or 1/8.
        max_jpeg_pixels: Pixels of a JPEG file before that.
        max_video_packets: Encoded frames of a video.
        max_buffered_bytes: Bytes kept of a stream whose index comes at its end (MP4).
    """

    memory_mb: int = 1024
    cpu_s: int = 120
    step_s: float = 150.0
    max_image_pixels: int = 50_000_000
    max_jpeg_pixels: int = 250_000_000
    max_video_packets: int = 1_000_000
    max_buffered_bytes: int = 512 * 2**20
