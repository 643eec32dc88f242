"""Tables of `aihub models`: one function for each answer."""

import sys
import time

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aihub.models.cli.backend import Answer
from aihub.models.memory.ledger import gib

PIPE_WIDTH = 200
STATE_STYLES = {"available": "green", "cached": "yellow", "damaged": "red bold", "missing": "dim"}
STATE_STYLES |= {"sleeping": "cyan", "ready": "green", "failed": "red bold", "loading": "yellow", "queued": "yellow"}


def show_status(answer: Answer) -> None:
    """One line per model, then the counts."""
    table = _table("model", "for", "state", "size", "languages", "version", "")
    for key, item in answer["model_details"].items():
        marks = [mark for mark, is_set in (("required", item["required"]), ("pinned", item["pinned"])) if is_set]
        state = Text(item["state"], style=STATE_STYLES.get(item["state"], ""))
        languages = " ".join(item["languages"][:4]) + (" ..." if len(item["languages"]) > 4 else "")
        size, version = _size(item["size_bytes"]), _short(item["digest"])
        table.add_row(key, ", ".join(item["types"]), state, size, languages, version, ", ".join(marks))
    _print(table)
    missing = answer["missing_required_keys"]
    counts = f"{answer['available_models']} of {answer['total_models']} models can be used"
    _print(
        f"{counts}; missing: {', '.join(missing)}" if missing else f"{counts}; all {answer['required_models']} required are here"
    )


def show_detection(answer: Answer) -> None:
    """What each source has, then its models."""
    sources = _table("source", "", "")
    for name, state in answer["sources"].items():
        mark = Text("yes", style="green") if state["available"] else Text("no", style="dim")
        sources.add_row(name, mark, state["detail"])
    _print(sources)
    models = _table("model", "found in", "size", "version")
    for item in answer["models"]:
        models.add_row(item["key"], item["source"], _size(item["size_bytes"]), _short(item["digest"]))
    _print(models)


def show_downloads(answer: Answer) -> None:
    """How each download ended."""
    if not answer["downloads"]:
        _print("Nothing to download: every required model is here.")
        return
    table = _table("model", "result")
    for item in answer["downloads"]:
        table.add_row(item["key"], Text(item["error"], style="red") if item["error"] else Text("installed", style="green"))
    _print(table)


def show_validation(answer: Answer) -> None:
    """One line per checked model."""
    table = _table("model", "files", "loads", "speed", "")
    for item in answer["results"]:
        speed = "" if item["speed"] is None else f"{item['speed']['value']:.1f} {item['speed']['unit']}"
        table.add_row(item["key"], _outcome(item["integrity"]), _outcome(item["load"]), speed, item["detail"])
    _print(table)
    _print("All good." if answer["is_good"] else Text("Something is wrong; see above.", style="red"))


def show_cleanup(answer: Answer) -> None:
    """What was removed."""
    if not answer["removed"]:
        _print("Nothing to remove.")
        return
    table = _table("removed", "version", "size", "installed")
    for item in answer["removed"]:
        table.add_row(item["key"], _short(item["digest"]), _size(item["size_bytes"]), _when(item["installed_at"]))
    _print(table)
    _print(f"{_size(answer['freed_bytes'])} are free again.")


def show_recommended(answer: Answer) -> None:
    """The machine, then every model with the reason."""
    machine = answer["machine"]
    card = f"{machine['gpu_name']} with {_size(machine['gpu_memory_bytes'])}" if machine["gpu_name"] else "no GPU"
    _print(f"This machine: {_size(machine['ram_bytes'])} memory, {card}, {_size(machine['disk_free_bytes'])} of disk free")
    table = _table("", "model", "for", "size", "runs on", "why")
    for item in answer["models"]:
        mark = Text("take", style="green") if item["is_recommended"] else Text("fits" if item["fits"] else "no", style="dim")
        table.add_row(
            mark, item["key"], ", ".join(item["types"]), _size(item["size_bytes"]), item["device"] or "", item["reason"]
        )
    _print(table)


def show_configuration(answer: Answer) -> None:
    """Every setting with its value."""
    table = _table("setting", "value")
    for name, value in answer.items():
        shown = "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        table.add_row(name, shown)
    _print(table)


def show_version(answer: Answer) -> None:
    """The version in use."""
    pinned = ", pinned" if answer["pinned"] else ""
    _print(f"{answer['key']} uses version {_short(answer['digest'])} of {_when(answer['installed_at'])}{pinned}.")


def show_update(answer: Answer) -> None:
    """Whether there is a newer version."""
    offered = _short(answer["upstream"])
    text = {
        True: f"{answer['key']}: version {offered} is newer than {_short(answer['installed'])}.",
        False: f"{answer['key']} is up to date.",
        None: f"{answer['key']}: nobody can say whether there is a newer version: {answer['detail']}",
    }
    _print(text[answer["update_available"]])
    if "downloads" in answer:
        show_downloads(answer)


def show_model(answer: Answer) -> None:
    """One model after it was loaded or unloaded."""
    if answer["state"] == "sleeping":
        _print(f"{answer['model_id']} sleeps with {gib(answer['sleeping_bytes'])} of weights in RAM; its next request wakes it.")
        return
    if answer["state"] != "ready":
        _print(f"{answer['model_id']} is {answer['state']}.")
        return
    took = "" if answer["load_time_s"] is None else f", loaded in {answer['load_time_s']:.1f} s"
    _print(f"{answer['model_id']} is ready on {answer['device']} with {_memory(answer)}{took}.")


def show_loaded(answer: Answer) -> None:
    """Models that are in memory, on their way or failed; then who holds the memory of each device."""
    shown = [model for model in answer["models"] if model["state"] != "unloaded"]
    table = _table("model", "state", "memory", "device", "in flight", "last used", "pinned", "")
    for model in sorted(shown, key=lambda model: (not model["used_bytes"], model["model_id"])):
        state = Text(model["state"], style=STATE_STYLES.get(model["state"], ""))
        used = "" if model["last_used_at"] is None else _ago(time.time() - model["last_used_at"])
        pinned = "yes" if model["pinned"] else ""
        table.add_row(
            model["model_id"], state, _memory(model), model["device"], str(model["in_flight"]), used, pinned, _remark(model)
        )
    _print(table if shown else "No model is loaded.")
    others = [model["model_id"] for model in answer["models"] if model["state"] == "unloaded"]
    if others:
        _print(f"Installed, loaded by their first request: {', '.join(others)}")
    for device in answer["devices"]:
        holders = ", ".join(f"{held['holder']} {gib(held['size_bytes'])}" for held in device["holders"]) or "nobody"
        free = "" if device["free_bytes"] is None else f"; {gib(device['free_bytes'])} are free on the device"
        account = f"{gib(device['reserved_bytes'])} of {gib(device['budget_bytes'])} reserved"
        _print(f"{device['device']}: {account} ({holders}){free}")


def _memory(model: Answer) -> str:
    """What it was seen to hold, else what is reserved for it; of a sleeper, what it keeps and its RAM."""
    if model["state"] == "sleeping":
        kept = f"{gib(model['used_bytes'])} + " if model["used_bytes"] else ""
        return f"{kept}{gib(model['sleeping_bytes'])} of RAM"
    return gib(model["used_bytes"]) if model["used_bytes"] else f"up to {gib(model['need_bytes'])}"


def _remark(model: Answer) -> str:
    waiting = f"{model['waiting']} requests wait for it" if model["waiting"] else ""
    retry = f" (again in {model['retry_in_s']:.0f} s)" if model["retry_in_s"] else ""
    failure = f"{model['failure']}{retry}" if model["failure"] else ""
    return "; ".join(filter(None, (failure, waiting)))


def _ago(seconds: float) -> str:
    for unit_s, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f} {name} ago"
    return f"{max(seconds, 0):.0f} s ago"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        # Keys are copied into other commands, so they are never cut.
        table.add_column(column, justify="right" if column == "size" else "left", no_wrap=column in {"model", "size", "setting"})
    return table


def _print(content: Table | Text | str) -> None:
    # Without markup: names and messages come from servers and disks. In a pipe, lines stay whole for grep.
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    Console(highlight=False, markup=False, width=width).print(content)


def _outcome(outcome: str) -> Text:
    return Text({"unknown": "-"}.get(outcome, outcome), style={"good": "green", "bad": "red bold"}.get(outcome, "dim"))


def _size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return ""
    if size_bytes < 10**6:
        return f"{size_bytes / 10**3:.0f} kB"
    return f"{size_bytes / 10**9:.1f} GB" if size_bytes >= 10**9 else f"{size_bytes / 10**6:.0f} MB"


def _short(digest: str | None) -> str:
    return (digest or "").removeprefix("sha256:")[:12]


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
