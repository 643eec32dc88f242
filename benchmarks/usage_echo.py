"""An application that answers at once behind the hub's whole edge; with `ECHO_DSN` it records each request there.

Run as `python -m benchmarks.usage_echo PORT`.
"""

import asyncio
import os
import sys

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from aihub.accounts.fake import FakeAuthenticator
from aihub.core.metrics import RequestMetrics
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.core.settings import Settings
from aihub.http.app import create_prediction_app
from aihub.http.services import PredictionServices
from aihub.recsys.schemas import (
    NextItemsAnswer,
    NextItemsRequest,
    RecommendationsAnswer,
    RecommendationsRequest,
    TrendingAnswer,
    TrendingRequest,
)
from aihub.usage.recorder import UsageRecorder
from aihub.usage.tables.usage_records import UsageTable


class Echo:
    """Satisfies `PredictionService` and finds nothing for anybody."""

    async def recommendations(self, principal: Principal, request: RecommendationsRequest) -> RecommendationsAnswer:
        return RecommendationsAnswer(store_id=request.store_id, user_id=request.user_id, recommendations=[], model_version="echo")

    async def trending(self, principal: Principal, request: TrendingRequest) -> TrendingAnswer:
        return TrendingAnswer(store_id=request.store_id, trending=[], model_version="echo")

    async def next_items(self, principal: Principal, request: NextItemsRequest) -> NextItemsAnswer:
        return NextItemsAnswer(
            store_id=request.store_id, input_history=request.item_history, predictions=[], next_items=[], model_version="echo"
        )


async def ready(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def main(port: int) -> None:
    services = PredictionServices(Settings(), FakeAuthenticator(), Echo(), RequestMetrics())
    dsn = os.environ.get("ECHO_DSN")
    if dsn:
        database = Database(dsn)
        await database.open()
        recorder = UsageRecorder(UsageTable(database), days=90)
        services = PredictionServices(Settings(), FakeAuthenticator(), Echo(), RequestMetrics(), usage=recorder)
    app = create_prediction_app(services)
    app.add_route("/health", ready)
    await uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off")).serve()
    if dsn:
        await recorder.close()
        await database.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
