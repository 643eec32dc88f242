"""The FastAPI application of the hub: routes, errors and the middleware around them. Runs on fakes with no cluster."""

from typing import Any

from fastapi import APIRouter, FastAPI

from aihub import __version__
from aihub.accounts.routes import router as accounts
from aihub.chat.routes import router as chat
from aihub.conversations.routes import openai_router as openai_conversations
from aihub.conversations.routes import router as conversations
from aihub.core.schemas import ErrorBody
from aihub.documents.routes import file_batches_router, files_router, vector_stores_router
from aihub.embeddings.routes import router as embeddings
from aihub.finetuning.adapter_routes import fine_tuned_models_router
from aihub.finetuning.adapter_routes import router as adapters
from aihub.finetuning.routes import router as fine_tuning
from aihub.finetuning.routes import training_router as training_jobs
from aihub.http.access import ACCESS
from aihub.http.errors import install_error_handlers
from aihub.http.middleware import RequestContext
from aihub.http.routes import docs_router
from aihub.http.routes import router as operation
from aihub.http.services import PredictionServices, Services
from aihub.http.websockets import WebSocketContext
from aihub.models.routes import loaded_models_router, models_router
from aihub.models.store.routes import router as model_registry
from aihub.recsys.routes import predictions_router, training_router
from aihub.speech.routes import router as speech
from aihub.speech.stream_routes import router as live_speech
from aihub.speech.voice_routes import voice_router
from aihub.usage.routes import router as usage

_DESCRIPTION = """\
OpenAI's API for chat, embeddings, speech, files and vector stores, served from your own machine. Chat takes one extra field,
`retrieval`, which answers from your documents with citations.
"""

_ROUTERS: tuple[APIRouter, ...] = (
    chat,
    conversations,
    openai_conversations,
    embeddings,
    speech,
    live_speech,
    voice_router,
    files_router,
    vector_stores_router,
    file_batches_router,
    models_router,
    loaded_models_router,
    model_registry,
    fine_tuning,
    adapters,
    fine_tuned_models_router,
    training_jobs,
    training_router,
    predictions_router,
    accounts,
    usage,
    operation,
    docs_router,
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
    for router in _ROUTERS:
        app.include_router(router)
    _with_security(app)
    return _with_edge(app, services, sends_request_id=sends_request_id)


def _with_security(app: FastAPI) -> None:
    """Tell generated clients that requests carry a key; the middleware, which the description knows nothing of, asks for it."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        spec = describe()  # made once
        if "security" not in spec:
            spec["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            spec["security"] = [{"key": []}]
            for route in (route for route, access in ACCESS.items() if access == "open"):
                method, _, path = route.partition(" ")
                spec["paths"][path][method.lower()]["security"] = []
        return spec

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def create_prediction_app(services: PredictionServices) -> FastAPI:
    """Build what answers `/predict` alone, as the whole application would; it has no documentation of its own."""
    app = FastAPI(redirect_slashes=False, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(predictions_router)
    return _with_edge(app, services, sends_request_id=True)


def _with_edge(app: FastAPI, services: Services | PredictionServices, *, sends_request_id: bool) -> FastAPI:
    app.state.services = services
    install_error_handlers(app)
    app.add_middleware(RequestContext, sends_id=sends_request_id)
    app.add_middleware(WebSocketContext)
    return app
