"""`aihub speech`: files to text and subtitles, and which models listen."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_args

import httpx
import typer

from aihub.core.errors import HubError, InternalError, InvalidRequestError, UnavailableError
from aihub.core.hub_requests import error_of, hub_headers, hub_url
from aihub.core.progress import progress_bar
from aihub.core.sse import payload
from aihub.speech.events import DONE
from aihub.speech.formats import to_json, to_text, to_verbose_json
from aihub.speech.schemas import Granularity, ResponseFormat
from aihub.speech.service import AUTO_MODEL, Segment, Transcript, Word

app = typer.Typer(help="Speech recognition: transcribe files on the running hub.", no_args_is_help=True)

FAILURE, USAGE = 1, 2
TIMEOUT = httpx.Timeout(30.0, read=600.0)
"""The hub sends a comment every 15 s, once it has the file."""
SUFFIXES: dict[ResponseFormat, str] = {"text": ".txt", "srt": ".srt", "vtt": ".vtt", "json": ".json", "verbose_json": ".json"}
_ALL: frozenset[Granularity] = frozenset(get_args(Granularity))


@app.command()
def transcribe(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Audio, or video with sound.")],
    model: Annotated[str, typer.Option(help="Speech model such as vosk:vi; auto decides by the first seconds.")] = AUTO_MODEL,
    language: Annotated[str | None, typer.Option(help="ISO 639-1 code; with auto, the only language tried.")] = None,
    response_format: Annotated[str, typer.Option("--format", help="text, json, verbose_json, srt or vtt.")] = "text",
    phrases: Annotated[list[str] | None, typer.Option(help="All that may be heard; may come again.")] = None,
    output: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for one result a file; printed when left out.")
    ] = None,
) -> None:
    """Transcribe files; a bar shows how far each is. Results are in OpenAI's formats."""
    if response_format not in SUFFIXES:
        raise typer.BadParameter(f"{response_format!r} is none of {', '.join(SUFFIXES)}.", param_hint="--format")
    if output is not None:
        _require_own_results(files)
    fields = {"model": model, "stream": "true", "response_format": "verbose_json", "phrases": phrases or []}
    if language is not None:
        fields["language"] = language

    def run(client: httpx.Client) -> None:
        with progress_bar() as report:
            for path in files:
                result = render(_transcribe(client, path, fields, report), response_format)
                if output is None:
                    typer.echo(result, nl=False)
                else:
                    _write(output / f"{path.stem}{SUFFIXES[response_format]}", result)

    _with_hub(run)


@app.command()
def models() -> None:
    """Show the installed speech models."""

    def run(client: httpx.Client) -> None:
        answer = client.get("/v1/models")
        if not answer.is_success:
            raise error_of(answer)
        found = [model["id"] for model in answer.json()["data"] if model["owned_by"] == "vosk"]
        typer.echo("\n".join(found) or "No speech model is installed. Install one: aihub models download vosk:vi")

    _with_hub(run)


def render(transcript: Transcript, response_format: ResponseFormat) -> str:
    """Return a transcript as the hub's API would, with a line end behind; verbose with words and segments."""
    if response_format in {"text", "srt", "vtt"}:
        return to_text(transcript, response_format)
    answer = to_json(transcript) if response_format == "json" else to_verbose_json(transcript, _ALL)
    return f"{json.dumps(answer, ensure_ascii=False, indent=2)}\n"


def _transcribe(client: httpx.Client, path: Path, fields: dict[str, Any], report: Callable[[str, float], None]) -> Transcript:
    segments: list[Segment] = []
    with path.open("rb") as file:
        for event in _events(client, {"file": (path.name, file)}, fields):
            if event["type"] == DONE:
                report(path.name, 1.0)
                return Transcript(event["model"], event["language"], event["duration"], tuple(segments))
            if "segment" in event:
                segments.append(_segment(event["segment"]))
            done_s, duration_s = event["progress"]["done_s"], event["progress"]["duration_s"]
            report(path.name, min(done_s / duration_s, 1.0) if duration_s else 0.0)
    raise UnavailableError(f"The hub stopped before the end of {path.name}. Send it again.")


def _events(client: httpx.Client, files: dict[str, Any], fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with client.stream("POST", "/v1/audio/transcriptions", files=files, data=fields) as answer:
        if not answer.is_success:
            answer.read()
            raise error_of(answer)
        for line in answer.iter_lines():
            event = payload(line)
            if event is None:
                continue
            if "error" in event:
                raise UnavailableError(event["error"]["message"])
            yield event


def _segment(item: dict[str, Any]) -> Segment:
    words = tuple(Word(word["word"], word["start"], word["end"], word["confidence"]) for word in item["words"])
    return Segment(item["text"], item["start"], item["end"], words)


def _require_own_results(files: list[Path]) -> None:
    """Refuse two files whose results would have one name: the second would replace the first."""
    first: dict[str, Path] = {}
    for path in files:
        if (other := first.setdefault(path.stem, path)) is not path:
            raise typer.BadParameter(
                f"The results of {other} and {path} would have one name. Use a folder for each, or rename one.",
                param_hint="--output",
            )


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidRequestError(f"{path} cannot be written: {error.strerror}.") from error
    typer.echo(str(path))


@contextmanager
def open_client() -> Iterator[httpx.Client]:
    """Yield a client of the hub at `AIHUB_URL`, of this machine's when that is not set."""
    # No proxies: the hub is a neighbour, and its key must not travel anywhere else.
    with httpx.Client(base_url=hub_url(), headers=hub_headers(), trust_env=False, timeout=TIMEOUT) as client:
        yield client


def _with_hub(run: Callable[[httpx.Client], None]) -> None:
    """Run a verb; a failure ends it in one line, with exit code 2 where it was asked wrongly."""
    try:
        with open_client() as client:
            run(client)
    except httpx.ConnectError as error:
        typer.echo(f"aihub: No hub answers at {hub_url()}. Start it with `aihub serve`, or set AIHUB_URL.", err=True)
        raise typer.Exit(FAILURE) from error
    except httpx.HTTPError as error:
        typer.echo(f"aihub: The hub stopped answering ({type(error).__name__}). Look at its log.", err=True)
        raise typer.Exit(FAILURE) from error
    except (KeyError, TypeError, ValueError) as error:
        raise InternalError("The hub's answer is not understood. Do both have the same version?") from error
    except HubError as error:
        typer.echo(f"aihub: {error.message}", err=True)
        raise typer.Exit(USAGE if error.status == InvalidRequestError.status else FAILURE) from error
