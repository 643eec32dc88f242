"""vLLM's errors about images as the hub words them."""

from types import SimpleNamespace

import pytest

from aihub.core.errors import InvalidRequestError
from deployments.llm_messages import hub_error


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("Failed to load image: cannot identify image file <_io.BytesIO object>", "damaged, or of an unknown format"),
        ("Failed to load image: image file is truncated", "damaged, or of an unknown format"),
        (
            "Image dimensions 9000x9000 (81000000 pixels) exceed the maximum of 33554432 pixels. Set VLLM_MAX_IMAGE_PIXELS to "
            "increase this limit.",
            "too large (9000x9000 pixels)",
        ),
    ],
)
def test_image_the_engine_cannot_read_is_a_clear_400(told: str, says: str) -> None:
    error = hub_error(SimpleNamespace(error=SimpleNamespace(message=told, code=400, param=None)))
    assert isinstance(error, InvalidRequestError)
    assert (error.code, error.param) == ("invalid_media", "messages")
    assert says in error.message
    assert "BytesIO" not in error.message
    assert "VLLM" not in error.message
