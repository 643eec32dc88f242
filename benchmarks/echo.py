"""The floor a request is measured against: FastAPI and uvicorn, nothing else."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class EchoBody(BaseModel):
    """A small body with a list, such as an answer of ten items."""

    items: list[dict[str, Any]]


@app.get("/echo")
async def echo() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/echo")
async def echo_body(body: EchoBody) -> EchoBody:
    return body
