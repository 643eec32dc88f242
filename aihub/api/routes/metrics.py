"""`/metrics` in Prometheus' text format."""

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from aihub.api.deps import ServicesDep

router = APIRouter(tags=["operation"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
async def get_metrics(services: ServicesDep) -> Response:
    """The counters, gauges and histograms of the API, of the model manager and of the recommender.

    Where the hub may have several replicas, the API's samples have the label `replica` and come from all of them.
    """
    replicas = services.replica_metrics
    own = generate_latest(services.metrics.registry) if replicas is None else await replicas()
    return Response(own + await services.more_metrics(), media_type=CONTENT_TYPE_LATEST)
