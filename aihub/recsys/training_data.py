"""What a training learns from: read from the shop once, and kept for the process that takes over when the first is killed."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from aihub.recsys.array_files import FitCheckpoint
from aihub.recsys.data.connections import NotEnoughDataError
from aihub.recsys.data.extraction import Limits, open_store
from aihub.recsys.data.mapping import Mapping as ShopMapping
from aihub.recsys.trainers import ModelTrainer

_STAGE = "data"


def read_training_data(
    dsn: str,
    mapping: ShopMapping,
    limits: Limits,
    trainer: ModelTrainer,
    checkpoint: FitCheckpoint,
    *,
    tenant: str,
    store_id: int,
    parameters: Mapping[str, Any],
) -> Any:
    """Read a store, or what a killed process of this training has read: what it had learnt fits no other data.

    Returns:
        `trainer.data_type`.

    Raises:
        NotEnoughDataError: The store has no orders.
        HubError: The shop cannot be read.
    """
    saved = checkpoint.load(_STAGE)
    if saved is not None:
        return trainer.data_type(**saved.arrays, **saved.facts)
    with open_store(dsn, mapping, tenant=tenant, store_id=store_id, limits=limits) as reader:
        data = trainer.read(reader, parameters)
    if len(data) == 0:
        raise NotEnoughDataError(
            f"Store {store_id} has no orders to learn from. Load some (`aihub recsys import`, or `make demo-shop` to try), or "
            "point configs/recsys/mapping.yaml at the shop's tables."
        )
    values = {field.name: getattr(data, field.name) for field in fields(data)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    checkpoint.save(_STAGE, arrays, {name: value for name, value in values.items() if name not in arrays})
    return data
