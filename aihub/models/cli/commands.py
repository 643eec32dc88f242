"""`aihub models`: what is here, get, check and tidy models, load and unload them."""

import os
from typing import Annotated

import typer

from aihub.core.command_arguments import parse_settings
from aihub.models.cli import tables
from aihub.models.cli.backend import STATUS, Answer, Backend, LocalAnswer, Query, quote_key
from aihub.models.cli.run import follow_downloads, run
from aihub.models.keys import parse_key
from aihub.models.memory.state import UnloadLevel

RECOMMENDED = Query("GET", "/models/recommended", local=lambda registry: registry.recommended())


app = typer.Typer(help="Models: what is here, download, check, pin, load.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Key = Annotated[str, typer.Argument(help="Model key, such as hf:Qwen/Qwen2.5-0.5B-Instruct or ollama:gemma2:9b.")]
Keys = Annotated[list[str] | None, typer.Option("--models", help="Model keys; several may follow.")]
MoreKeys = Annotated[list[str] | None, typer.Argument(help="More model keys.", show_default=False)]


@app.command()
def status(as_json: Json = False) -> None:
    """Show every known model and whether it can be used."""
    run(lambda backend: backend.ask(STATUS), tables.show_status, as_json=as_json)


@app.command()
def detect(as_json: Json = False) -> None:
    """Look for models: packages, installs, folders, caches, Ollama, remote services."""
    query = Query("GET", "/models/detect", local=lambda registry: registry.detect())
    run(lambda backend: backend.ask(query), tables.show_detection, as_json=as_json)


@app.command()
def download(
    models: Keys = None,
    more: MoreKeys = None,
    recommended: Annotated[bool, typer.Option("--recommended", help="Get all that this machine should have.")] = False,
    as_json: Json = False,
) -> None:
    """Get models; without names, the required ones that are missing."""

    async def get(backend: Backend) -> Answer:
        keys = [*(models or []), *(more or [])]
        if recommended:
            judged = (await backend.ask(RECOMMENDED))["models"]
            keys += [item["key"] for item in judged if item["is_recommended"] and not item["key"].startswith("package:")]
        return await follow_downloads(backend, keys or await _missing(backend), is_quiet=as_json)

    run(get, tables.show_downloads, as_json=as_json, fails=lambda answer: any(item["error"] for item in answer["downloads"]))


@app.command()
def validate(
    models: Keys = None,
    more: MoreKeys = None,
    load: Annotated[bool, typer.Option(help="Also load and measure each model, where the hub runs.")] = True,
    as_json: Json = False,
) -> None:
    """Check the hashes of all files, and that models load; exit code 1 when one is bad."""
    keys = [*(models or []), *(more or [])]

    async def check(backend: Backend) -> Answer:
        parsed = [parse_key(key) for key in keys] or None
        body = {"with_load": load} | ({"models": keys} if keys else {})
        return await backend.ask(
            Query("POST", "/models/validate", body, lambda registry: registry.validate(parsed, with_load=load))
        )

    run(
        check,
        tables.show_validation,
        as_json=as_json,
        fails=lambda answer: not answer["is_good"],
    )


@app.command()
def bench(models: Keys = None, more: MoreKeys = None, as_json: Json = False) -> None:
    """Measure models through the running hub: tokens or embeddings a second."""
    keys = [*(models or []), *(more or [])]
    run(
        lambda backend: backend.bench(keys),
        tables.show_validation,
        as_json=as_json,
        fails=lambda answer: not answer["is_good"],
        needs_hub=True,
    )


@app.command()
def cleanup(
    keep: Annotated[int, typer.Option(min=0, max=1000, help="Versions of each model to keep.")] = 3,
    as_json: Json = False,
) -> None:
    """Remove old versions; never one that is pinned, loaded or required."""
    query = Query("POST", f"/models/cleanup?keep_recent={keep}", local=lambda registry: registry.cleanup(keep=keep))
    run(lambda backend: backend.ask(query), tables.show_cleanup, as_json=as_json)


@app.command()
def recommended(as_json: Json = False) -> None:
    """Show which models fit this machine, and why."""
    run(lambda backend: backend.ask(RECOMMENDED), tables.show_recommended, as_json=as_json)


@app.command()
def configure(
    settings: Annotated[list[str] | None, typer.Argument(help="name=value; `name=` returns to the default.")] = None,
    as_json: Json = False,
) -> None:
    """Show the run-time settings, or change some."""
    changes = parse_settings(settings or [])
    if changes:
        actor = f"command line of user {os.getuid()}"
        query = Query("POST", "/models/configure", changes, lambda registry: registry.configure(changes, actor=actor))
    else:
        query = Query("GET", "/models/configuration", local=lambda registry: registry.configuration())
    run(lambda backend: backend.ask(query), tables.show_configuration, as_json=as_json)


@app.command()
def pin(
    key: Key,
    digest: Annotated[str | None, typer.Option(help="Version, by the start of its digest; else the one in use.")] = None,
    as_json: Json = False,
) -> None:
    """Keep one version of a model in use whatever is installed later."""
    chosen = {"digest": digest} if digest else {}
    _change_version("pin", {"key": key} | chosen, lambda registry: registry.pin(parse_key(key), digest), as_json=as_json)


@app.command()
def unpin(key: Key, as_json: Json = False) -> None:
    """Let later installs of a model be used again."""
    _change_version("unpin", {"key": key}, lambda registry: registry.unpin(parse_key(key)), as_json=as_json)


@app.command()
def rollback(key: Key, as_json: Json = False) -> None:
    """Go back to the version of a model used before."""
    _change_version("rollback", {"key": key}, lambda registry: registry.rollback(parse_key(key)), as_json=as_json)


@app.command()
def update(
    key: Key,
    apply: Annotated[bool, typer.Option("--apply", help="Also download what is newer.")] = False,
    as_json: Json = False,
) -> None:
    """Ask the source of a model whether there is a newer version."""

    async def check(backend: Backend) -> Answer:
        path = f"/models/update/{quote_key(key)}"
        found = await backend.ask(Query("GET", path, local=lambda registry: registry.check_update(parse_key(key))))
        if apply and found["update_available"] is not False:
            return found | await follow_downloads(backend, [key], is_quiet=as_json)
        return found

    run(check, tables.show_update, as_json=as_json, fails=lambda answer: any(d["error"] for d in answer.get("downloads", [])))


@app.command()
def load(
    model_id: Annotated[str, typer.Argument(help="Name clients send, such as qwen2.5-0.5b-instruct.")],
    force_reload: Annotated[bool, typer.Option("--force-reload", help="Load it anew if it is loaded.")] = False,
    as_json: Json = False,
) -> None:
    """Load a model in the running hub."""
    query = Query("POST", "/api/v1/models/load", {"model_id": model_id, "force_reload": force_reload})
    run(lambda backend: backend.ask(query), tables.show_model, as_json=as_json, needs_hub=True)


@app.command()
def unload(
    model_id: Annotated[str, typer.Argument(help="Name clients send.")],
    level: Annotated[UnloadLevel, typer.Option(help="sleep keeps its weights in RAM, if it can; full ends it.")] = "sleep",
    as_json: Json = False,
) -> None:
    """Unload a model and wait until its memory is back."""
    query = Query("POST", "/api/v1/models/unload", {"model_id": model_id, "level": level})
    run(lambda backend: backend.ask(query), tables.show_model, as_json=as_json, needs_hub=True)


@app.command()
def ps(as_json: Json = False) -> None:
    """Show what is loaded, how much memory it takes and who holds the rest."""
    run(lambda backend: backend.ask(Query("GET", "/api/v1/models/status")), tables.show_loaded, as_json=as_json, needs_hub=True)


def _change_version(verb: str, body: dict[str, str], local: LocalAnswer, *, as_json: bool) -> None:
    async def change(backend: Backend) -> Answer:
        return await backend.ask(Query("POST", f"/models/{verb}", body | {"key": str(parse_key(body["key"]))}, local))

    run(change, tables.show_version, as_json=as_json)


async def _missing(backend: Backend) -> list[str]:
    return [str(key) for key in (await backend.ask(STATUS))["missing_required_keys"]]
