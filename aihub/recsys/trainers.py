"""The three kinds of models as a training sees them: how each is read, fitted, and set against the served one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

from aihub.recsys.array_files import FitCheckpoint
from aihub.recsys.artifacts import ModelType, Version
from aihub.recsys.data.extraction import StoreReader
from aihub.recsys.data.interactions import Interactions, Sales
from aihub.recsys.results import Cancelled, Progress
from aihub.recsys.settings import RecsysSettings


class Trained(Protocol):
    """What a fit gives.

    Attributes:
        metrics: Figures on the held-out data, among them the one that decides (`aihub.recsys.artifacts.GATES`).
        details: More to remember: which of several models won, and by how much.
    """

    @property
    def metrics(self) -> Mapping[str, float]: ...

    @property
    def details(self) -> Mapping[str, Any]: ...

    @property
    def save(self) -> Callable[[Path], None]:
        """Writes the model into an empty folder."""
        ...

    @property
    def evaluate(self) -> Callable[[Version], dict[str, float] | None]:
        """Figures of another saved version on the same held-out data; None when they cannot be compared."""
        ...


class ModelTrainer(Protocol):
    """One kind of model: how its data is read and how it is fitted.

    Attributes:
        data_type: Of what `read` returns: a dataclass of arrays and JSON values, with a length.
    """

    @property
    def data_type(self) -> type[Any]: ...

    def read(self, reader: StoreReader, parameters: Mapping[str, Any]) -> Any: ...

    def fit(
        self, data: Any, parameters: Mapping[str, Any], *, progress: Progress, cancelled: Cancelled, checkpoint: FitCheckpoint
    ) -> Trained:
        """Fit and measure.

        Args:
            checkpoint: What a killed process of this training has left, and where to leave something.
        """
        ...


Parameters = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A fitted model with its figures.

    Attributes:
        metrics: On the held-out data.
        details: More to remember.
        save: Writes the model into an empty folder.
        evaluate: Figures of another saved version on the same held-out data.
    """

    metrics: dict[str, float]
    details: dict[str, Any]
    save: Callable[[Path], None]
    evaluate: Callable[[Version], dict[str, float] | None]


class RecommendationTrainer:
    """Item neighbours, linear models, matrix factors and NeuMF."""

    data_type: type[Interactions] = Interactions

    def read(self, reader: StoreReader, parameters: Parameters) -> Interactions:
        return reader.interactions()

    def fit(
        self, data: Interactions, parameters: Parameters, *, progress: Progress, cancelled: Cancelled, checkpoint: FitCheckpoint
    ) -> Outcome:
        from aihub.recsys.collaborative.blending import load_recommender
        from aihub.recsys.collaborative.evaluation import evaluate
        from aihub.recsys.collaborative.recommendation import fit_recommendation

        fitted = fit_recommendation(data, recommendation_settings(parameters), progress, cancelled, checkpoint=checkpoint)
        notes = fitted.recommender.notes

        def judge(version: Version) -> dict[str, float]:
            return evaluate(load_recommender(version.path).as_judged(), fitted.hold_out)

        return Outcome(fitted.metrics, {"winner": fitted.recommender.family, "notes": notes}, fitted.recommender.save, judge)


class NextItemTrainer:
    """Sequence rules, session neighbours and the learned ranking."""

    data_type: type[Interactions] = Interactions

    def read(self, reader: StoreReader, parameters: Parameters) -> Interactions:
        return reader.purchases()

    def fit(
        self, data: Interactions, parameters: Parameters, *, progress: Progress, cancelled: Cancelled, checkpoint: FitCheckpoint
    ) -> Outcome:
        from aihub.recsys.next_item.evaluation import fit_next_item
        from aihub.recsys.next_item.model import NextItemSettings
        from aihub.recsys.next_item.sequences import Sequences

        sequences = Sequences.from_interactions(data)
        model = fit_next_item(sequences, _take(NextItemSettings(), parameters), progress, cancelled)

        def judge(version: Version) -> dict[str, float] | None:
            # The served model has been rebuilt on everything it knew, the held-out part included: its settings are examined
            # anew instead, on the same hidden events.
            served = version.card.get("parameters", {})
            if served == dict(parameters):
                return dict(model.metrics)
            progress("examining the served model", 0.0)
            return fit_next_item(sequences, _take(NextItemSettings(), served), cancelled=cancelled).metrics

        return Outcome(model.metrics, {"winner": model.ranker}, model.save, judge)


class TrendingTrainer:
    """Sales forecast."""

    data_type: type[Sales] = Sales

    def read(self, reader: StoreReader, parameters: Parameters) -> Sales:
        return reader.sales(parameters.get("period", "week"))

    def fit(
        self, data: Sales, parameters: Parameters, *, progress: Progress, cancelled: Cancelled, checkpoint: FitCheckpoint
    ) -> Outcome:
        from aihub.recsys.trending.model import TrendingSettings, fit_trending

        settings = _take(TrendingSettings(), parameters)
        model = fit_trending(data, settings, progress, cancelled)

        def judge(version: Version) -> dict[str, float] | None:
            # Like the next items: the served forecast knows the examined periods, so its settings are examined instead.
            served = version.card.get("parameters", {})
            if served == dict(parameters):
                return dict(model.metrics)
            if served.get("period", "week") != data.period:
                return None
            progress("examining the served model", 0.0)
            rival = replace(_take(TrendingSettings(), served), examined_periods=settings.examined_periods)
            return fit_trending(data, rival, cancelled=cancelled).metrics

        return Outcome(model.metrics, {"winner": model.winner}, model.save, judge)


def recommendation_settings(parameters: Parameters) -> Any:
    """Turn hyper-parameters into the settings of a fit; unset ones are the fit's own."""
    from aihub.recsys.collaborative.settings import RecommendationSettings

    model = parameters.get("model", "auto")
    base = RecommendationSettings()
    settings = replace(
        _take(base, parameters),
        ials=_take(base.ials, parameters, but={"epochs"}),
        neumf=_take(base.neumf, parameters),
    )
    return settings if model == "auto" else replace(settings, families=(model,))


def choose_trainer(model_type: ModelType) -> ModelTrainer:
    """Return the trainer of a model type."""
    return _TRAINERS[model_type]()


def choose_loader(model_type: ModelType) -> Callable[[Path], Any]:
    """Return what opens a saved model of a type by memory map."""

    def load(folder: Path) -> Any:
        from aihub.recsys.collaborative.blending import load_recommender
        from aihub.recsys.next_item.model import NextItemModel
        from aihub.recsys.trending.model import TrendingModel

        loaders: dict[ModelType, Callable[[Path], Any]] = {
            "recommendation": load_recommender,
            "trending": TrendingModel.load,
            "next_item": NextItemModel.load,
        }
        return loaders[model_type](folder)

    return load


def with_defaults(settings: RecsysSettings, model_type: ModelType, parameters: Parameters) -> dict[str, Any]:
    """Return what a training uses: the request's hyper-parameters over the operator's."""
    default = {
        "recommendation": settings.recommendation,
        "trending": settings.trending,
        "next_item": settings.next_item,
    }[model_type]
    return default.chosen() | dict(parameters)


def _take(settings: Any, parameters: Parameters, *, but: set[str] | None = None) -> Any:
    """Replace the fields that are set."""
    names = {item.name for item in fields(settings)} - (but or set())
    return replace(settings, **{name: value for name, value in parameters.items() if name in names})


_TRAINERS: dict[ModelType, Callable[[], ModelTrainer]] = {
    "recommendation": RecommendationTrainer,
    "trending": TrendingTrainer,
    "next_item": NextItemTrainer,
}
