"""The floor an empty request is measured against: FastAPI and uvicorn, nothing else."""

from fastapi import FastAPI

app = FastAPI()


@app.get("/echo")
async def echo() -> dict[str, str]:
    return {"status": "ok"}
