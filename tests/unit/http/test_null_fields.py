"""Null for an optional field means absent, in every request of the hub."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, RootModel, ValidationError

import aihub
from aihub.chat.completions import GenerateRequest
from aihub.chat.schemas import AnswerModel, ChatCompletionRequest
from aihub.core.schemas import NullIsAbsent, ResponseModel
from aihub.documents.schemas import SearchRequest, VectorStoreUpdate
from aihub.embeddings.schemas import EmbeddingRequest
from aihub.recsys.schemas import TrainRecommendationRequest

BODIES: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (ChatCompletionRequest, {"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
    (EmbeddingRequest, {"model": "m", "input": "a"}),
    (GenerateRequest, {"prompt": "a"}),
    (SearchRequest, {"query": "a"}),
    (TrainRecommendationRequest, {"store_id": 1}),
]


MORE = (
    "chat.completions",
    "chat.messages",
    "chat.sampling",
    "chat.tools",
    "core.filters",
    "finetuning.training_schemas",
    "http.routes",
)
"""Wire types that lie outside a `schemas.py`."""


def requests() -> Iterator[type[BaseModel]]:
    names = [f"aihub.{path.parent.name}.schemas" for path in Path(aihub.__file__).parent.glob("*/schemas.py")]
    for name in [*names, *(f"aihub.{more}" for more in MORE)]:
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == name:
                yield value


REQUESTS = sorted({model for model in requests() if issubclass(model, NullIsAbsent)}, key=lambda model: model.__name__)
OPTIONAL = [
    (model, field.alias or name) for model in REQUESTS for name, field in model.model_fields.items() if not field.is_required()
]


def test_all_requests_are_walked() -> None:
    names = {model.__name__ for model in REQUESTS}
    assert {"ChatCompletionRequest", "SearchRequest", "VectorStoreCreate", "RetrievalOptions", "StreamOptions"} <= names
    assert len(OPTIONAL) > 100


@pytest.mark.parametrize(("model", "field"), OPTIONAL, ids=lambda value: getattr(value, "__name__", value))
def test_null_is_no_error(model: type[BaseModel], field: str) -> None:
    try:
        model.model_validate({field: None})
    except ValidationError as error:
        assert [found for found in error.errors() if found["loc"] and found["loc"][0] == field] == []


@pytest.mark.parametrize(("model", "body"), BODIES, ids=lambda value: getattr(value, "__name__", ""))
def test_body_full_of_nulls_is_as_one_without(model: type[BaseModel], body: dict[str, Any]) -> None:
    nulls = {field.alias or name: None for name, field in model.model_fields.items() if not field.is_required()}
    assert model.model_validate(nulls | body) == model.model_validate(body)


def test_nested_null_is_absent() -> None:
    body = {
        "model": "m",
        "stream": True,
        "messages": [{"role": "user", "content": "hi", "name": None}],
        "stream_options": {"include_usage": None},
        "retrieval": {"vector_store_ids": ["vs_1"], "top_k": None, "mode": None, "filters": None},
        "tools": [{"type": "function", "function": {"name": "f", "description": None, "parameters": None, "strict": None}}],
    }
    request = ChatCompletionRequest.model_validate(body)
    assert not request.wants_usage
    assert request.retrieval is not None
    assert (request.retrieval.top_k, request.retrieval.mode) == (5, "hybrid")


def test_null_clears_in_an_update() -> None:
    assert VectorStoreUpdate.model_validate({"metadata": None}).model_fields_set == {"metadata"}


def test_no_request_has_another_base() -> None:
    """Such a one would not be walked here; the form of an upload holds strings, which are never null."""
    others = {
        model.__name__ for model in requests() if not issubclass(model, NullIsAbsent | ResponseModel | AnswerModel | RootModel)
    }
    assert others == {"FileFields", "FileExpiresAfter", "TranscriptionFields", "VoiceActivityFields"}
