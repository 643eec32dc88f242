"""`/docs`: the API by hand in the browser, without the internet where the page's files are installed.

vLLM brings Swagger UI's two files; where it is missing the page loads them from FastAPI's default CDN.
"""

import asyncio
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response

from aihub.errors import NotFoundError

router = APIRouter(include_in_schema=False)

_MEDIA_TYPES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


@router.get("/docs")
async def get_docs(request: Request) -> HTMLResponse:
    title = f"{request.app.title} API"
    if await asyncio.to_thread(_assets) is None:
        return get_swagger_ui_html(openapi_url="/openapi.json", title=title)
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=title,
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="data:,",
    )


@router.get("/docs/{name}")
async def get_docs_file(name: str) -> Response:
    assets = await asyncio.to_thread(_assets)
    if assets is None or name not in _MEDIA_TYPES:
        raise NotFoundError("The documentation page has no such file.")
    content = await asyncio.to_thread((assets / name).read_bytes)
    return Response(content, media_type=_MEDIA_TYPES[name], headers={"Cache-Control": "max-age=86400"})


@cache
def _assets() -> Path | None:
    spec = find_spec("vllm")
    for package in spec.submodule_search_locations or () if spec is not None else ():
        folder = Path(package, "entrypoints", "serve", "instrumentator", "static")
        if all((folder / name).is_file() for name in _MEDIA_TYPES):
            return folder
    return None
