"""How a store's recommender is trained."""

from dataclasses import dataclass, field
from typing import Literal

from aihub.recsys.collaborative.evaluation import HELD_OUT_EVENTS
from aihub.recsys.collaborative.ials import IalsSettings
from aihub.recsys.collaborative.neumf import NeumfSettings

Family = Literal["popular", "knn", "rp3beta", "ease", "ials", "neumf"]
FAMILIES: tuple[Family, ...] = ("popular", "knn", "rp3beta", "ease", "ials", "neumf")


@dataclass(frozen=True, slots=True)
class RecommendationSettings:
    """How to train a store's recommender.

    Attributes:
        families: Which models to try, in this order. Popularity is always compared with: nothing below it is kept.
        dim: Of the matrix factors; None takes what the hold-out likes best in a small store, and what the time allows in others.
        unobserved_weight: Of pairs that did not occur; None goes by the size of the catalogue and the search.
        search: Try other values of regularisation and weight (and of `dim` in a small store) on the hold-out first.
        pretrain: Start NeuMF's product from matrix factors; in a small store it is trained without, too, and the better stays.
        blend: Add the scores of two or three families up where that is better on the hold-out.
        time_limit_s: After which no further epoch starts.
        held_out_events: About how many events are judged on, at most.
        ials, neumf: The rest; `dim` and `unobserved_weight` of `ials` do not count.
    """

    families: tuple[Family, ...] = FAMILIES
    dim: int | None = None
    unobserved_weight: float | None = None
    search: bool = True
    pretrain: bool = True
    blend: bool = True
    time_limit_s: float = 600.0
    held_out_events: int = HELD_OUT_EVENTS
    ials: IalsSettings = field(default_factory=IalsSettings)
    neumf: NeumfSettings = field(default_factory=NeumfSettings)
