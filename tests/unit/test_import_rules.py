"""The dependency rules of the house, read from the imports themselves. `python scripts/house.py` prints who touches whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.house import find_cycles, read_house

ROOT = Path(__file__).resolve().parents[2]
# Package -> top-level names it must never import, anywhere.
FORBIDDEN = {
    "aihub": {"ray", "pipelines", "deployments", "training"},
    "pipelines": {"ray", "deployments", "training"},
    "training": {"deployments", "pipelines"},
    "deployments": {"training"},
}
CAPABILITIES = (
    "accounts",
    "cache",
    "chat",
    "conversations",
    "documents",
    "embeddings",
    "finetuning",
    "media",
    "models",
    "recsys",
    "speech",
    "usage",
)
# Folder of `aihub` -> folders it may import besides its own. A capability's Protocols lie in its `service.py`, which every
# capability and `http` may import too.
ALLOWED = {
    "core": set(),
    "http": {"core"},
    **dict.fromkeys(CAPABILITIES, {"core", "http"}),
    "cli": {"core", "http", *CAPABILITIES},
}
# Module and part of a name that it may import all the same, and why.
EXEMPT = {
    ("aihub.http.app", "routes"): "mounts the routes of every capability",
    ("aihub.models.store.default_models", "embeddings"): "prepares the default encoder for OpenVINO before the hub starts",
}
# Names that only these modules touch: what Ray and vLLM move between minor releases is mended in one place.
COMPAT = {
    ("ray", "deployments.ray_compat"),
    ("ray.dashboard", "deployments.ray_programs"),
    ("vllm", "deployments.vllm_compat"),
    ("vllm", "deployments.vllm_cpu_adapters"),  # lives in the engine's process, which must not import Ray Serve
}
HEAVY = {"vllm", "torch", "vosk", "av", "PIL", "lightgbm", "transformers", "sentence_transformers", "nncf", "openvino"}
# Loads untrusted bytes as code.
UNSAFE = {"pickle", "cloudpickle", "joblib", "dill", "marshal", "shelve"}
MOST_LINES = 300


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Modules that a file imports, and `module.name` of each name it takes from one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def wrong_imports(folder: str, path: Path) -> Iterator[str]:
    """Imports of other folders of `aihub` that the table does not allow."""
    for name in imports(path):
        top, _, rest = name.partition(".")
        other, _, inner = rest.partition(".")
        if top != "aihub" or other not in ALLOWED or other in ALLOWED[folder] | {folder}:
            continue
        is_protocol = other in CAPABILITIES and folder != "core" and (inner == "service" or inner.startswith("service."))
        is_exempt = any(module == module_of(path) and has_part(name, part) for module, part in EXEMPT)
        if not is_protocol and not is_exempt and inner:
            yield f"{path.relative_to(ROOT)} imports {name}"


def has_part(name: str, part: str) -> bool:
    """Whether one part of a dotted name is `part`, or ends with it as `adapter_routes` with `routes`."""
    return any(piece == part or piece.endswith(f"_{part}") for piece in name.split("."))


def is_private(name: str) -> str | None:
    """Whose private name this is: `ray`'s, its dashboard's (which documents none), `vllm`'s or nobody's."""
    top, *inner = name.split(".")
    if top == "vllm" or name.startswith(("ray.llm", "ray.serve.llm")):
        return "vllm"
    if name.startswith("ray.dashboard"):
        return "ray.dashboard"
    return "ray" if top == "ray" and any(part.startswith("_") for part in inner) else None


@pytest.mark.parametrize("package", FORBIDDEN)
def test_package_imports_only_what_lies_below_it(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(package)
        for name in imports(path)
        if name.split(".")[0] in FORBIDDEN[package]
    ]
    assert wrong == []


def test_every_folder_of_the_library_has_a_row_in_the_table() -> None:
    folders = {path.name for path in (ROOT / "aihub").iterdir() if (path / "__init__.py").exists()}
    assert folders == set(ALLOWED)


@pytest.mark.parametrize("folder", ALLOWED)
def test_folder_imports_only_what_the_table_allows(folder: str) -> None:
    assert [wrong for path in sources(f"aihub/{folder}") for wrong in wrong_imports(folder, path)] == []


def test_exemptions_are_needed() -> None:
    used = {
        (module, part)
        for module, part in EXEMPT
        for name in imports(ROOT / f"{module.replace('.', '/')}.py")
        if has_part(name, part)
    }
    assert used == set(EXEMPT)


def test_no_modules_import_each_other() -> None:
    assert find_cycles(read_house()) == []


def test_modules_are_short() -> None:
    assert {module.name: module.lines for module in read_house().values() if module.lines > MOST_LINES} == {}


def test_only_deployments_import_ray_serve_and_only_training_imports_ray_train() -> None:
    owners = {"ray.serve": "deployments", "ray.train": "training"}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for package in FORBIDDEN
        for path in sources(package)
        for name in imports(path)
        for owned, owner in owners.items()
        if name.startswith(owned) and package != owner
    ]
    assert wrong == []


def test_private_names_of_ray_and_vllm_are_imported_in_their_compat_modules_only() -> None:
    """`benchmarks` starts bare engines on purpose and is not looked at; neither are tests."""
    users = {
        (library, module_of(path))
        for package in FORBIDDEN
        for path in sources(package)
        for name in imports(path)
        if (library := is_private(name)) is not None
    }
    assert users == COMPAT


@pytest.mark.parametrize("package", ["aihub", "pipelines"])
def test_heavy_libraries_are_imported_inside_the_functions_that_need_them(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(package)
        for name in imports(path, top_level_only=True)
        if name.split(".")[0] in HEAVY
    ]
    assert wrong == []


@pytest.mark.parametrize("package", FORBIDDEN)
def test_nothing_unpickles(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(package)
        for name in imports(path)
        if name.split(".")[0] in UNSAFE
    ]
    assert wrong == []


def test_the_rules_see_a_violation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    module = tmp_path / "module.py"
    module.write_text(
        "import aihub.chat.routes\nfrom aihub.chat.service import ChatEngine\ndef f():\n    from ray import serve\n",
        encoding="utf-8",
    )
    assert list(imports(module)) == [
        "aihub.chat.routes", "aihub.chat.service", "aihub.chat.service.ChatEngine", "ray", "ray.serve",
    ]  # fmt: skip
    assert "ray.serve" not in list(imports(module, top_level_only=True))
    assert list(wrong_imports("recsys", module)) == ["module.py imports aihub.chat.routes"]
    assert list(wrong_imports("chat", module)) == []
    private = {
        "ray._private.services": "ray",
        "ray.serve.context._get_global_client": "ray",
        "vllm.envs": "vllm",
        "ray.serve": None,
    }
    assert {name: is_private(name) for name in private} == private
