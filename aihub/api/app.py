"""The FastAPI application of the hub: routes, errors and the middleware around them. Runs on fakes with no cluster."""

from fastapi import FastAPI

from aihub import __version__
from aihub.api.errors import install_error_handlers
from aihub.api.middleware import RequestContext
from aihub.api.routes import (
    chat,
    completions,
    docs,
    embeddings,
    files,
    generate,
    health,
    lifecycle,
    metrics,
    models,
    recsys,
    registry,
    vector_stores,
)
from aihub.api.services import Services
from aihub.schemas.common import ErrorBody

_DESCRIPTION = """\
OpenAI's API for chat, embeddings, files and vector stores, served from your own machine. Chat takes one extra field,
`retrieval`, which answers from your documents with citations.
"""

_ROUTES = (
    chat,
    completions,
    generate,
    embeddings,
    files,
    vector_stores,
    models,
    lifecycle,
    registry,
    recsys,
    health,
    metrics,
    docs,
)


def create_app(services: Services, *, sends_request_id: bool = True) -> FastAPI:
    """Build the application on the given services.

    Args:
        services: What the routes call.
        sends_request_id: Whether answers carry `x-request-id`; False where a server in front adds it.

    Paths have no second spelling: a trailing slash is 404, in OpenAI's shape like every other failure.
    """
    app = FastAPI(
        title="AI Hub",
        version=__version__,
        description=_DESCRIPTION,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        responses={"4XX": {"model": ErrorBody, "description": "The request is wrong."}, "5XX": {"model": ErrorBody}},
    )
    app.state.services = services
    install_error_handlers(app)
    app.add_middleware(RequestContext, sends_id=sends_request_id)
    for routes in _ROUTES:
        app.include_router(routes.router)
    return app
