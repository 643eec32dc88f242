"""Images of every kind become upright RGB of bounded size."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aihub.media.image import fit, prepare_image
from aihub.media.limits import MediaLimits
from aihub.media.service import MediaError, PreparedImage
from tests.unit.media.media_files import image, opened

LIMITS = MediaLimits()


def prepared(data: bytes, max_pixels: int = 10_000) -> PreparedImage:
    return prepare_image(data, max_pixels=max_pixels, limits=LIMITS)


def saved(picture: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, name, **options)
    return file.getvalue()


def left_red() -> Image.Image:
    """The left half red, the right blue."""
    picture = Image.new("RGB", (80, 40), "red")
    picture.paste("blue", (40, 0, 80, 40))
    return picture


def is_near(pixel: Any, wanted: tuple[int, int, int]) -> bool:
    return max(abs(a - b) for a, b in zip(pixel, wanted, strict=True)) <= 6


@pytest.mark.parametrize("name", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_every_format_is_read(name: str) -> None:
    picture = prepared(image(name))
    assert (picture.width, picture.height) == (40, 30)
    assert picture.media_type == ("image/jpeg" if name in {"JPEG", "WEBP"} else "image/png")
    assert is_near(opened(picture.data).getpixel((20, 15)), (200, 30, 30))


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (image("JPEG", mode="CMYK", color=(0, 255, 255, 0)), (255, 0, 0)),
        (image("JPEG", mode="L", color=77), (77, 77, 77)),
        (image(mode="1", color=1), (255, 255, 255)),
        (image(mode="RGBA", color=(0, 0, 0, 0)), (255, 255, 255)),
        (image(mode="RGBA", color=(255, 0, 0, 128)), (255, 127, 127)),
        (image(mode="LA", color=(0, 128)), (127, 127, 127)),
        (image(mode="P", color=0, transparency=0), (255, 255, 255)),
        (image(mode="I;16", color=32_768), (128, 128, 128)),
        (image("TIFF", mode="I;16", color=65_535), (255, 255, 255)),
        (image("WEBP", mode="RGBA", color=(0, 0, 0, 0)), (255, 255, 255)),
    ],
    ids=["cmyk", "grey", "1-bit", "transparent", "half", "grey-half", "palette", "16-bit", "16-bit-tiff", "webp-transparent"],
)  # fmt: skip
def test_every_mode_is_seen_in_its_colours(data: bytes, seen: tuple[int, int, int]) -> None:
    assert is_near(opened(prepared(data).data).getpixel((3, 3)), seen)


def test_shades_of_16_bits_keep_their_order() -> None:
    shades = np.linspace(0, 65_535, 64 * 4).reshape(4, 64).astype("<u2")
    pixels = np.asarray(opened(prepared(saved(Image.fromarray(shades), "PNG")).data))[..., 0].ravel()
    assert pixels[0] == 0 and pixels[-1] == 255 and (np.diff(pixels.astype(int)) >= 0).all()


@pytest.mark.parametrize(("orientation", "first", "last"), [
    (1, "red", "blue"), (2, "blue", "red"), (3, "blue", "red"), (4, "red", "blue"),
    (5, "red", "blue"), (6, "red", "blue"), (7, "blue", "red"), (8, "blue", "red"),
])  # fmt: skip
def test_pictures_of_cameras_are_turned_upright(orientation: int, first: str, last: str) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    picture = prepared(saved(left_red(), "JPEG", quality=95, exif=exif))
    assert (picture.width, picture.height) == ((80, 40) if orientation < 5 else (40, 80))
    seen = opened(picture.data)
    colours = {"red": (255, 0, 0), "blue": (0, 0, 255)}
    assert is_near(seen.getpixel((2, 2)), colours[first]) and is_near(
        seen.getpixel((picture.width - 3, picture.height - 3)), colours[last]
    )
    assert not seen.getexif()


def test_the_first_picture_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green", "blue")]
    for name in ("GIF", "WEBP", "PNG", "TIFF"):
        data = saved(frames[0], name, save_all=True, append_images=frames[1:])
        assert is_near(opened(prepared(data).data).getpixel((10, 10)), (255, 0, 0))


def test_no_metadata_goes_on() -> None:
    exif = Image.Exif()
    exif[0x10E] = "secret place"
    assert b"secret" not in prepared(saved(left_red(), "JPEG", exif=exif, comment=b"secret")).data
    assert prepared(saved(left_red(), "PNG", exif=exif, icc_profile=b"secret")).data == prepared(saved(left_red(), "PNG")).data


@pytest.mark.parametrize("size", [(1, 1), (2000, 1000), (1000, 2000), (60_000, 1), (1, 60_000), (333, 77)])
@pytest.mark.parametrize("max_pixels", [1, 100, 10_000])
def test_no_image_is_larger_than_asked_for(size: tuple[int, int], max_pixels: int) -> None:
    width, height = fit(*size, max_pixels)
    assert 1 <= width <= size[0] and 1 <= height <= size[1] and width * height <= max_pixels
    picture = prepared(image("PNG", size, mode="L", color=9), max_pixels)
    assert (picture.width, picture.height) == opened(picture.data).size == (width, height)


def test_sides_stay_in_proportion() -> None:
    picture = prepared(image("PNG", (1600, 900)), 14_400)
    assert (picture.width, picture.height) == (160, 90)


def test_a_jpeg_of_100_megapixels_is_decoded_at_a_fraction() -> None:
    picture = prepared(image("JPEG", (10_000, 10_000), mode="L", color=77), 250_000)
    assert (picture.width, picture.height) == (500, 500)
    assert is_near(opened(picture.data).getpixel((250, 250)), (77, 77, 77))


def test_the_same_image_is_prepared_alike_each_time() -> None:
    data = saved(left_red(), "JPEG")
    assert prepared(data) == prepared(data)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_an_image_that_was_cut_off_is_refused(name: str) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (300, 300, 3), np.uint8))
    data = saved(noise, name)
    for share in (0.002, 0.5):
        with pytest.raises(MediaError, match="damaged|format"):
            prepared(data[: int(len(data) * share)])


def test_a_picture_of_numbers_is_refused() -> None:
    with pytest.raises(MediaError, match="32 bits") as caught:
        prepared(image("TIFF", mode="F", color=0.5))
    assert caught.value.code == "unsupported_media"
