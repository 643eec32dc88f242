"""`aihub recsys`: a shop's data, its models and their answers. Needs the state folder and the database, but no running hub."""

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from aihub.core.command_arguments import parse_settings
from aihub.core.errors import HubError, InvalidRequestError
from aihub.core.settings import Settings

app = typer.Typer(help="Recommendations: load a shop, train, ask, roll back.", no_args_is_help=True)

Store = Annotated[int, typer.Argument(min=0, help="Number of the store.")]
Kind = Annotated[str, typer.Argument(metavar="MODEL", help="recommendation, trending or next-item.")]
Settable = Annotated[list[str] | None, typer.Argument(help="Hyper-parameters as name=value.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("import")
def import_files(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Holds stores.csv, orders.csv and so on.")],
    store: Annotated[int | None, typer.Option(min=0, help="Store of files without a store_id column.")] = None,
) -> None:
    """Load CSV files (also .gz, .xz) into the hub's shop tables."""
    from aihub.core.progress import progress_bar
    from aihub.recsys.data.import_csv import import_folder

    with _told_errors(), _hub_database() as dsn, progress_bar() as progress:
        _show_counts(import_folder(dsn, folder, store_id=store, progress=progress))


@app.command("demo-shop")
def demo_shop(
    source: Annotated[Path | None, typer.Option("--from", help="online_retail.csv or .csv.xz; made up without it.")] = None,
    store: Annotated[int, typer.Option(min=0, help="Number of the store.")] = 1,
) -> None:
    """Fill a store to try everything with."""
    from aihub.core.progress import progress_bar
    from aihub.recsys.data.demo_shop import load_demo_shop

    with _told_errors(), _hub_database() as dsn, progress_bar() as progress:
        _show_counts(load_demo_shop(dsn, source, store_id=store, progress=progress))
    typer.echo(f"Train it: {sys.argv[0]} recsys train {store} recommendation")


@app.command()
def check(store: Store) -> None:
    """Compare configs/recsys/mapping.yaml with the shop's database and count what a training would read."""
    from aihub.core.principal import DEFAULT_TENANT
    from aihub.recsys.data.extraction import open_store

    with (
        _told_errors(),
        _place() as place,
        open_store(place.shop_dsn, place.mapping, tenant=DEFAULT_TENANT, store_id=store, limits=place.limits) as reader,
    ):
        events = reader.interactions()
        typer.echo(f"The mapping fits. Store {store}: {len(events)} events, {len(reader.sales('week'))} weekly sales.")


@app.command()
def train(store: Store, model: Kind, settings: Settable = None, as_json: Json = False) -> None:
    """Train a model of a store here, and serve it unless it is worse than the served one."""
    from aihub.core.progress import progress_bar
    from aihub.recsys.settings import RecsysSettings
    from aihub.recsys.trainers import choose_trainer, with_defaults
    from aihub.recsys.training import train as run_training

    with _told_errors():
        model_type = _model_type(model)
        parameters = with_defaults(RecsysSettings(), model_type, _parameters(model_type, settings))
        with _place() as place, progress_bar() as progress:
            result = run_training(place, choose_trainer(model_type), store, model_type, parameters, progress=progress)
    if as_json:
        _print_json(asdict(result))
        return
    typer.echo(result.message)
    _show_metrics(result.metrics)


@app.command()
def evaluate(store: Store, model: Kind, settings: Settable = None, as_json: Json = False) -> None:
    """Fit on what the store has now, publish nothing, and compare with the served model on the same held-out data."""
    from aihub.core.progress import progress_bar
    from aihub.recsys.settings import RecsysSettings
    from aihub.recsys.trainers import choose_trainer, with_defaults
    from aihub.recsys.training import compare

    with _told_errors():
        model_type = _model_type(model)
        parameters = with_defaults(RecsysSettings(), model_type, _parameters(model_type, settings))
        with _place() as place, progress_bar() as progress:
            new, served = compare(place, choose_trainer(model_type), store, model_type, parameters, progress=progress)
    if as_json:
        _print_json({"new": new, "served": served})
        return
    typer.echo("A new training:")
    _show_metrics(new)
    typer.echo("The served model:" if served is not None else "No model is served that could be compared.")
    _show_metrics(served or {})


@app.command()
def status(store: Store, as_json: Json = False) -> None:
    """Show the versions of a store's models, and its last trainings while the database runs."""
    from aihub.core.principal import DEFAULT_TENANT
    from aihub.recsys.artifacts import MODEL_TYPES
    from aihub.recsys.cli_trainings import describe_trainings

    with _told_errors():
        artifacts = _artifacts(DEFAULT_TENANT)
        versions = [(kind, version) for kind in MODEL_TYPES for version in artifacts.versions(store, kind)]
        trainings = [] if as_json else describe_trainings(Settings(), store)
    if as_json:
        _print_json([version.card | {"model_type": kind, "served": version.is_served} for kind, version in versions])
        return
    for kind, version in versions:
        mark = "served" if version.is_served else ""
        typer.echo(f"{kind:<15} {version.name}  {mark:<7} {_decisive(kind, version.metrics)}")
    if not versions:
        typer.echo(f"Store {store} has no model. Train one: {sys.argv[0]} recsys train {store} recommendation")
    if trainings:
        typer.echo("\nLast trainings:")
    for line in trainings:
        typer.echo(line)


@app.command()
def predict(
    store: Store,
    model: Kind,
    user: Annotated[int | None, typer.Option(min=0, help="Customer, for recommendation.")] = None,
    history: Annotated[str, typer.Option(help="Items so far, oldest first, with commas, for next-item.")] = "",
    n: Annotated[int, typer.Option("--n", "-n", min=1, max=1000, help="Items wanted.")] = 10,
    all_items: Annotated[bool, typer.Option("--all", help="Bought items too.")] = False,
) -> None:
    """Ask a store's model; prints JSON."""
    with _told_errors():
        model_type = _model_type(model)
        if model_type == "recommendation" and user is None:
            raise InvalidRequestError("Name the customer with --user.")
        try:
            items = [int(part) for part in history.split(",") if part.strip()]
        except ValueError as error:
            raise InvalidRequestError("--history must be item numbers with commas, such as 84879,22720.") from error
        with _place() as place:
            _print_json(asyncio.run(_predict(place, store, model_type, user, items, n, exclude=not all_items)))


@app.command()
def rollback(store: Store, model: Kind) -> None:
    """Serve the version of a model that was served before."""
    from aihub.core.principal import DEFAULT_TENANT

    with _told_errors():
        model_type = _model_type(model)
        with _place() as place:
            version = asyncio.run(_roll_back(place, DEFAULT_TENANT, store, model_type))
    typer.echo(f"Version {version.name} of store {store}'s {model_type} model is served now: {version.metrics}")


async def _roll_back(place: Any, tenant: str, store: int, model_type: Any) -> Any:
    from aihub.core.postgres import Database
    from aihub.recsys.tables.runs import TrainingRunTable

    version = place.artifacts(tenant).rollback(store, model_type)
    database = Database(place.hub_dsn, pool_size=1)
    await database.open()
    try:
        path = version.path.relative_to(place.home).as_posix()
        await TrainingRunTable(database).set_store_model(
            tenant, store, model_type, version=version.name, model_path=path, metrics=version.metrics
        )
    finally:
        await database.close()
    return version


async def _predict(
    place: Any, store: int, model_type: Any, user: int | None, history: list[int], n: int, *, exclude: bool
) -> dict[str, Any]:
    from aihub.core.principal import DEFAULT_TENANT
    from aihub.recsys.artifacts import MODEL_TYPES
    from aihub.recsys.data.live import LiveShop
    from aihub.recsys.open_models import OpenModels
    from aihub.recsys.predictions import Predictions
    from aihub.recsys.serializers import next_items_answer, recommendations_answer, trending_answer
    from aihub.recsys.trainers import choose_loader

    live = LiveShop(place.shop_dsn, place.mapping, connections=1)
    predictions = Predictions(OpenModels(place.artifacts, {kind: choose_loader(kind) for kind in MODEL_TYPES}), live)
    try:
        if model_type == "trending":
            return trending_answer(store, await predictions.trending(DEFAULT_TENANT, store, n)).model_dump()
        if model_type == "next_item":
            return next_items_answer(store, history, await predictions.next_items(DEFAULT_TENANT, store, history, n)).model_dump()
        customer = user or 0
        answer = await predictions.recommendations(DEFAULT_TENANT, store, customer, n, exclude_purchased=exclude)
        return recommendations_answer(store, customer, answer).model_dump()
    finally:
        await live.close()


@contextmanager
def _told_errors() -> Iterator[None]:
    try:
        yield
    except HubError as error:
        typer.echo(f"aihub: {error.message}", err=True)
        raise typer.Exit(2 if isinstance(error, InvalidRequestError) and error.status == 400 else 1) from error


@contextmanager
def _hub_database() -> Iterator[str]:
    """The migrated database of the hub; the embedded one is started for the time when it does not run."""
    from aihub.core import migrate
    from aihub.core.embedded.stores import database_for

    with database_for(Settings()) as dsn:
        migrate.upgrade(dsn)
        yield dsn


@contextmanager
def _place() -> Iterator[Any]:
    from aihub.recsys.settings import RecsysSettings
    from aihub.recsys.training import TrainingPlace

    with _hub_database() as dsn:
        yield TrainingPlace.of(RecsysSettings(), hub_dsn=dsn, home=Settings().home_path)


def _artifacts(tenant: str) -> Any:
    from aihub.recsys.artifacts import ArtifactStore
    from aihub.recsys.open_models import RESULTS

    return ArtifactStore(Settings().home_path / RESULTS, tenant=tenant)


def _model_type(text: str) -> Any:
    from aihub.recsys.artifacts import MODEL_TYPES

    name = text.strip().lower().replace("-", "_")
    if name not in MODEL_TYPES:
        raise InvalidRequestError(f"{text!r} is no model; it is one of recommendation, trending, next-item.")
    return name


def _parameters(model_type: Any, settings: list[str] | None) -> dict[str, Any]:
    """Read hyper-parameters with the bounds of the API."""
    from aihub.core.schemas import validate
    from aihub.recsys.schemas import TrainNextItemRequest, TrainRecommendationRequest, TrainTrendingRequest

    given = parse_settings(settings or [])
    kinds: dict[str, Any] = {
        "recommendation": TrainRecommendationRequest,
        "trending": TrainTrendingRequest,
        "next_item": TrainNextItemRequest,
    }
    parameters: dict[str, Any] = validate(kinds[model_type], given | {"store_id": 0}).parameters()
    return parameters


def _decisive(kind: Any, metrics: dict[str, float]) -> str:
    from aihub.recsys.artifacts import GATES

    metric = GATES[kind].metric
    return f"{metric} {metrics[metric]:.4f}" if metric in metrics else ""


def _show_metrics(metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        typer.echo(f"  {name:<32} {value:.4f}")


def _show_counts(counts: dict[str, int]) -> None:
    typer.echo("Loaded " + ", ".join(f"{count:,} {table}" for table, count in counts.items()) + ".")


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
