"""vLLM's requests and errors as the hub speaks of them: plain JSON in, the hub's error tree out.

Also several answers of a greedy request, which vLLM refuses and OpenAI allows.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from aihub.core.errors import ContextLengthError, HubError, InvalidRequestError, ModelUnavailableError, NotFoundError
from deployments.engine_work import engine_request_id

logger = logging.getLogger("ray.serve")

_SUFFIX = re.compile(r"\s*\(parameter=[^)]*\)\s*$")


def engine_died() -> ModelUnavailableError:
    """Return the error of a request whose engine has ended."""
    return ModelUnavailableError("The model's engine has died; a new one is started. Retry in a minute.", retry_after_s=30)


def chat_request(body: dict[str, Any]) -> Any:
    """Return vLLM's request for a chat body; raises `InvalidRequestError` for one it cannot take."""
    from deployments.vllm_compat import ChatCompletionRequest

    return _parse(ChatCompletionRequest, body | {"request_id": engine_request_id()})


def completion_request(body: dict[str, Any]) -> Any:
    """Return vLLM's request for a completion body; raises as `chat_request`."""
    from deployments.vllm_compat import CompletionRequest

    return _parse(CompletionRequest, body | {"request_id": engine_request_id()})


def _parse(request_type: Any, body: dict[str, Any]) -> Any:
    try:
        return request_type.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        raise InvalidRequestError(f"The model cannot take this request: {first['msg']}.", param=param) from error


def hub_error(response: Any) -> HubError:
    """Turn vLLM's error value into the hub's error tree by its status code."""
    info = response.error
    # The hub sends `max_completion_tokens` whatever the client called it, and vLLM's suffix repeats the sentence before it.
    message = _SUFFIX.sub("", str(info.message)).replace("max_completion_tokens", "max_tokens")
    param = getattr(info, "param", None)
    param = "max_tokens" if param == "max_completion_tokens" else "messages" if param == "input_tokens" else param
    status = int(info.code or 500)
    if message.startswith("max_tokens must be at least 1"):
        # The API takes no smaller one: it is what the prompt has left of the context.
        return ContextLengthError(
            "The prompt fills the model's maximum context length, so there is no room for an answer. Send less.", param="messages"
        )
    if status == 404:
        return NotFoundError(message, code="model_not_found", param="model")
    if 400 <= status < 500 and message.startswith(("Failed to load image", "Image dimensions")):
        return _unreadable_image(message)
    if 400 <= status < 500:
        too_long = any(words in message for words in ("maximum context length", "max_model_len", "maximum model length"))
        return (ContextLengthError if too_long else InvalidRequestError)(message, param=param)
    logger.error("vLLM answered %s: %s", status, message)
    return ModelUnavailableError("The model could not answer. Try again in a few seconds.")


def _unreadable_image(message: str) -> InvalidRequestError:
    """Say it without vLLM's names of Python objects and settings."""
    size = re.match(r"Image dimensions (\d+x\d+)", message)
    reason = f"is too large ({size.group(1)} pixels)" if size is not None else "is damaged, or of an unknown format"
    return InvalidRequestError(
        f"An image of the request {reason}. Send a whole PNG or JPEG of common size.", param="messages", code="invalid_media"
    )


def several_greedy(body: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body that vLLM takes: with `n` over 1, greedy becomes a draw among the one likeliest token, which is the same.

    Args:
        defaults: What a request gets where it says nothing, by field.
    """
    asked = body.get("temperature")
    temperature = defaults.get("temperature") if asked is None else asked
    if temperature != 0 or (body.get("n") or 1) == 1:
        return body
    return body | {"temperature": 1.0, "top_k": 1, "top_p": 1.0, "min_p": 0.0}
