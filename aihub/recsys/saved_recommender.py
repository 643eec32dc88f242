"""Opens a saved recommender of any kind."""

import json
from pathlib import Path
from typing import Any

from aihub.errors import ModelUnavailableError
from aihub.recsys.array_files import load_array
from aihub.recsys.blended_recommender import BlendedRecommender
from aihub.recsys.catalogue_recommender import Catalogue
from aihub.recsys.linear_recommender import CATALOGUE, FORMAT, LinearRecommender
from aihub.recsys.recommender import Recommender

StoreRecommender = Recommender | LinearRecommender | BlendedRecommender


def load_recommender(folder: Path, *, mmap: bool = True) -> StoreRecommender:
    """Open a saved model; with `mmap`, arrays are read from disk as they are touched.

    Raises:
        ModelUnavailableError: A file is missing or damaged, or of another version of the hub.
    """
    meta = json.loads((folder / "recommender.json").read_text(encoding="utf-8"))
    if meta["family"] in {"ials", "neumf"}:
        return Recommender.load(folder, mmap=mmap)
    if meta.get("format") != FORMAT:
        raise ModelUnavailableError("The saved recommender is of another version of the hub; train the store again.")
    if meta["family"] != "blend":
        return LinearRecommender.load(folder, meta, mmap=mmap)
    members: dict[str, Any] = {name: load_recommender(folder / name, mmap=mmap) for name in meta["weights"]}
    catalogue = Catalogue(*(load_array(folder, name, mmap=mmap) for name in CATALOGUE))
    return BlendedRecommender(catalogue, members, meta["weights"], meta["notes"])
