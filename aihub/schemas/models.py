"""Wire types of `/v1/models`."""

from typing import Literal

from aihub.schemas.common import ResponseModel


class ModelObject(ResponseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(ResponseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]
