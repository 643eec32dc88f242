"""The FastAPI application of the hub: routes, errors and the middleware around them. Runs on fakes with no cluster."""

from fastapi import FastAPI

from aihub import __version__
from aihub.chat import routes as chat
from aihub.chat import routes as completions
from aihub.chat import routes as generate
from aihub.core.schemas import ErrorBody
from aihub.documents import routes as file_batches
from aihub.documents import routes as files
from aihub.documents import routes as vector_stores
from aihub.embeddings import routes as embeddings
from aihub.http import routes as docs
from aihub.http import routes as health
from aihub.http import routes as metrics
from aihub.http.errors import install_error_handlers
from aihub.http.middleware import RequestContext
from aihub.http.services import PredictionServices, Services
from aihub.models import routes as lifecycle
from aihub.models import routes as models
from aihub.models.store import routes as registry
from aihub.recsys import routes as predictions
from aihub.recsys import routes as recsys

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
    file_batches,
    models,
    lifecycle,
    registry,
    recsys,
    predictions,
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
    for routes in _ROUTES:
        app.include_router(routes.router)
    return _with_edge(app, services, sends_request_id=sends_request_id)


def create_prediction_app(services: PredictionServices) -> FastAPI:
    """Build what answers `/predict` alone, as the whole application would; it has no documentation of its own."""
    app = FastAPI(redirect_slashes=False, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(predictions.predictions_router)
    return _with_edge(app, services, sends_request_id=True)


def _with_edge(app: FastAPI, services: Services | PredictionServices, *, sends_request_id: bool) -> FastAPI:
    app.state.services = services
    install_error_handlers(app)
    app.add_middleware(RequestContext, sends_id=sends_request_id)
    return app
