"""The text of an answer that a replica streams as server-sent events, for Python code on the cluster."""

from collections.abc import AsyncGenerator
from typing import Any

from aihub.core.errors import UnavailableError
from aihub.core.sse import events, payload
from deployments.handles import translate_error


async def remote_texts(frames: Any) -> AsyncGenerator[str, None]:
    """Yield the text in the server-sent events of a remote stream, which ends with this generator."""
    finished = False
    try:
        async for frame in frames:
            for event in events(frame):
                chunk = payload(event)
                if chunk is not None and "error" in chunk:
                    raise UnavailableError(chunk["error"]["message"], code=chunk["error"]["code"])
                for choice in (chunk or {}).get("choices", []):
                    if text := choice["delta"].get("content"):
                        yield text
        finished = True
    except (GeneratorExit, TimeoutError):
        raise
    except Exception as error:
        finished = True
        raise translate_error(error, "The hub") from error
    finally:
        if not finished:
            frames.cancel()
