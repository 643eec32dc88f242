"""The dependency rule of the house, read from the imports themselves."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Package -> top-level names it must never import, anywhere.
FORBIDDEN = {
    "aihub": {"ray", "pipelines", "deployments", "training"},
    "pipelines": {"ray", "deployments", "training"},
    "training": {"deployments", "pipelines"},
    "deployments": {"training"},
}
HEAVY = {"vllm", "torch", "vosk", "lightgbm", "transformers", "sentence_transformers", "onnxruntime", "openvino"}
# Loads untrusted bytes as code.
UNSAFE = {"pickle", "cloudpickle", "joblib", "dill", "marshal", "shelve"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


@pytest.mark.parametrize("package", FORBIDDEN)
def test_package_imports_only_what_lies_below_it(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(package)
        for name in imports(path)
        if name.split(".")[0] in FORBIDDEN[package]
    ]
    assert wrong == []


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


def test_ray_serve_llm_internals_are_imported_in_one_adapter_only() -> None:
    users = [
        path.name
        for path in sources("deployments")
        for name in imports(path)
        if name.startswith(("ray.llm", "ray.serve.llm", "vllm"))
    ]
    assert set(users) == {"vllm_adapter.py"}


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


def test_the_rule_sees_a_violation(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("def f():\n    import ray.serve\n", encoding="utf-8")
    assert list(imports(module)) == ["ray.serve"]
    assert list(imports(module, top_level_only=True)) == []
