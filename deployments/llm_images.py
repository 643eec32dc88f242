"""Content parts as the engine may have them: text, and images that came with the request.

vLLM would also fetch addresses, read files, unpickle tensors, and take another request's image from its cache by name. Parts are
therefore made anew from what is allowed, and everything else is refused.
"""

import asyncio
import base64
import io
from collections.abc import Mapping
from typing import Any

from aihub.core.base64_text import decode_slices
from aihub.core.errors import InvalidRequestError

_PREFIXES = ("data:image/png;base64,", "data:image/jpeg;base64,", "data:image/webp;base64,", "data:image/gif;base64,")
_WARM_UP_SIDE = 64


async def check_parts(body: dict[str, Any], max_images: int) -> dict[str, Any]:
    """Return a chat body whose content parts are text and data URLs of images, and nothing more.

    Args:
        max_images: Images the model takes; 0 for one that reads text only.

    Raises:
        InvalidRequestError: A part is of another kind, an image is an address or not base64, or there are too many.
    """
    if not any(isinstance(message.get("content"), list) for message in body["messages"]):
        return body
    # In a thread: decoding the base64 of many images takes longer than the loop may stand still.
    return await asyncio.to_thread(_with_checked_parts, body, max_images)


def _with_checked_parts(body: Mapping[str, Any], max_images: int) -> dict[str, Any]:
    messages = [dict(message) for message in body["messages"]]
    images = 0
    for number, message in enumerate(messages):
        if isinstance(message.get("content"), list):
            param = f"messages.{number}.content"
            message["content"] = [_checked_part(part, max_images, param) for part in message["content"]]
            images += sum(part["type"] == "image_url" for part in message["content"])
    if images > max_images:
        raise InvalidRequestError(
            f"The request holds {images} images, and the model takes {max_images}. Send fewer.",
            param="messages",
            code="too_many_images",
        )
    return {**body, "messages": messages}


def _checked_part(part: Any, max_images: int, param: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in {"text", "refusal"} and isinstance(part.get(kind), str):
        return {"type": "text", "text": part[kind]}
    if kind != "image_url":
        raise InvalidRequestError(f"The model's engine takes text and images, no {kind!r} part.", param=param)
    if not max_images:
        raise InvalidRequestError("The model reads text only. Choose one that sees.", param=param, code="model_reads_no_images")
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str) or not url.startswith(_PREFIXES):
        raise InvalidRequestError(
            "An image must come as a base64 data URL of a PNG, JPEG, WebP or GIF; addresses are not fetched here.", param=param
        )
    try:
        for _ in decode_slices(url.partition(",")[2]):
            pass  # only whether it is base64 matters; the engine decodes it
    except ValueError as error:
        raise InvalidRequestError(f"The image is not base64: {error}.", param=param, code="invalid_media") from error
    return {"type": "image_url", "image_url": {"url": url}}


def warm_up_image() -> dict[str, Any]:
    """Return the content part of a small grey image."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (_WARM_UP_SIDE, _WARM_UP_SIDE), "grey").save(buffer, "PNG")
    return {"type": "image_url", "image_url": {"url": _PREFIXES[0] + base64.b64encode(buffer.getvalue()).decode("ascii")}}
