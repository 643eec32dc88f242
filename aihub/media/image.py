"""Any image as upright RGB of bounded size. Runs in the limited media process."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from aihub.media.container import damaged
from aihub.media.identify import HEAD_BYTES, Identity, identify
from aihub.media.limits import MediaLimits
from aihub.media.service import MediaError, PreparedImage

if TYPE_CHECKING:
    from PIL import Image

_JPEG_QUALITY = 92
_PNG_COMPRESSION = 1
_JPEG_SCALES = (1, 2, 4, 8)
_MAX_SIDE = 65_535


def prepare_image(data: bytes, *, max_pixels: int, limits: MediaLimits) -> PreparedImage:
    """Decode the first picture of a file: turned upright, over white where it is transparent, no larger than `max_pixels`.

    Photographs (JPEG, WebP) are encoded as JPEG again, everything else as PNG.

    Raises:
        MediaError: It is no image, is damaged, or has too many pixels.
    """
    from PIL import ImageOps

    identity = identify(data[:HEAD_BYTES])
    if identity.family != "image":
        raise MediaError(
            f"The file is {identity.name} and no image; send PNG, JPEG, GIF, WebP, BMP or TIFF.", code="not_an_image"
        )
    with open_image(data, identity, limits) as image:
        if identity.name == "jpeg":
            _draft(image, max_pixels, limits)
        upright = ImageOps.exif_transpose(_shrunk(image, max_pixels))
        return encode_image(
            _shrunk(_rgb(upright), max_pixels), "image/jpeg" if identity.name in {"jpeg", "webp"} else "image/png"
        )


@contextmanager
def open_image(data: bytes, identity: Identity, limits: MediaLimits) -> Iterator["Image.Image"]:
    """Open an image, whose header alone is read and checked.

    Raises:
        MediaError: The header is damaged, or claims too many pixels; also for what is found wrong later in the block.
    """
    from PIL import Image

    # Bounds by format are checked below, before a pixel is decoded.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(io.BytesIO(data), formats=[identity.name.upper()]) as image:
            _check_size(image.width, image.height, limits.max_jpeg_pixels if identity.name == "jpeg" else limits.max_image_pixels)
            yield image
    except (MediaError, MemoryError):
        raise
    except Exception as error:
        # Damaged files bring up every kind of exception in the decoders; all of them are the file's fault.
        raise damaged(str(error)[:100] or type(error).__name__) from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise damaged("no pixels")
    if width * height > max_pixels or max(width, height) > _MAX_SIDE:
        raise MediaError(
            f"The image has {width} x {height} pixels; up to {max_pixels / 1e6:g} million are read. Make it smaller.",
            code="image_too_large",
        )


def _draft(image: "Image.Image", max_pixels: int, limits: MediaLimits) -> None:
    """Have a JPEG decoded at a fraction of its size, where nothing more is wanted or the whole is too large."""
    width, height = image.size
    fits = [scale for scale in _JPEG_SCALES if width * height / scale**2 <= limits.max_image_pixels]
    if not fits:
        _check_size(width, height, limits.max_image_pixels)
    enough = [scale for scale in fits if width * height / scale**2 >= 2 * max_pixels]
    scale = max(enough, default=fits[0])
    if scale > 1:
        image.draft(None, (math.ceil(width / scale), math.ceil(height / scale)))


def _rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.mode in {"I", "F"}:
        raise MediaError("The image has 32 bits a pixel in one channel; save it with 8 or 16.", code="unsupported_media")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _shrunk(image: "Image.Image", max_pixels: int) -> "Image.Image":
    size = fit(image.width, image.height, max_pixels)
    if size == image.size or image.mode in {"P", "1"} or image.mode.startswith("I"):
        return image
    from PIL import Image

    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def fit(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """Return the largest size in the same proportion, or as near as whole pixels get, of at most `max_pixels`."""
    if width * height <= max_pixels:
        return width, height
    scale = math.sqrt(max_pixels / (width * height))
    new_width, new_height = max(1, int(width * scale)), max(1, int(height * scale))
    return min(new_width, max_pixels // new_height), min(new_height, max_pixels // min(new_width, max_pixels // new_height))


def encode_image(image: "Image.Image", media_type: Literal["image/png", "image/jpeg"]) -> PreparedImage:
    """Encode an RGB image without metadata."""
    from PIL import Image

    bare = Image.new("RGB", image.size)
    bare.paste(image)
    encoded = io.BytesIO()
    if media_type == "image/jpeg":
        bare.save(encoded, "JPEG", quality=_JPEG_QUALITY)
    else:
        bare.save(encoded, "PNG", compress_level=_PNG_COMPRESSION)
    return PreparedImage(encoded.getvalue(), media_type, image.width, image.height)
