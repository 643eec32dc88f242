"""Prints the figures of the house: `python scripts/house.py`. Size of modules and functions, who imports whom, cycles.

With `--names` also each module that has one importer, that importer, and each long module and function.

Imports under `TYPE_CHECKING` are no imports at run time and count for nothing; those inside functions count.
"""

import ast
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("aihub", "pipelines", "deployments", "training")
SHARED = ("aihub.core", "aihub.http")
LONG_MODULE_LINES = 250
LONG_FUNCTION_LINES = 60
MIGRATIONS = "aihub/core/migrations/versions"


@dataclass(frozen=True, slots=True)
class Module:
    """One Python file of the product.

    Attributes:
        lines: All of them, blank ones too.
        function_lines: Lines of each function, nested ones too.
        imports: Modules of the product that it imports at run time.
    """

    name: str
    path: Path
    lines: int
    function_lines: list[int] = field(default_factory=list)
    imports: set[str] = field(default_factory=set)

    @property
    def folder(self) -> str:
        """The capability or the package it lies in: `aihub.chat`, `pipelines`."""
        parts = self.name.split(".")
        return ".".join(parts[:2]) if parts[0] == "aihub" else parts[0]


def read_house(root: Path = ROOT) -> dict[str, Module]:
    """Read every module below the four packages, by its dotted name; migrations are data and left out."""
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py")) if MIGRATIONS not in path.as_posix()]
    names = {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}
    return {name: _read(name, path, set(names)) for name, path in names.items()}


def find_cycles(modules: dict[str, Module]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    cycles = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(modules[name].imports):
            if other not in index:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == index[name]:
            position = stack.index(name)
            if len(stack) - position > 1:
                cycles.append(sorted(stack[position:]))
            del stack[position:]

    for name in modules:
        if name not in index:
            visit(name)
    return cycles


def find_importers(modules: dict[str, Module]) -> dict[str, list[str]]:
    importers: dict[str, list[str]] = {name: [] for name in modules}
    for module in modules.values():
        for name in module.imports:
            importers[name].append(module.name)
    return importers


def find_foreign_imports(modules: dict[str, Module]) -> dict[str, dict[str, set[str]]]:
    """Folders each folder of `aihub` touches outside its own, `core` and `http`, with the modules that do."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module in modules.values():
        for name in module.imports:
            other = modules[name].folder
            if other not in {module.folder, "aihub", *SHARED}:
                found[module.folder][other].add(module.name)
    return found


def percentile(values: list[int], share: float) -> int:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def runtime_imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import statement that runs; those under `if TYPE_CHECKING` do not."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        yield from runtime_imports(node)


def imported_names(tree: ast.AST, known: set[str]) -> set[str]:
    """Names among `known` that a module imports; `from package import module` is an import of the module."""
    found = set()
    for node in runtime_imports(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif node.module:
            found |= {full if (full := f"{node.module}.{alias.name}") in known else node.module for alias in node.names}
    return found & known


def _read(name: str, path: Path, known: set[str]) -> Module:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    functions = [
        node.end_lineno - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno
    ]
    return Module(name, path, text.count("\n"), functions, imported_names(tree, known) - {name})


def main() -> None:
    modules = read_house()
    written = [module for module in modules.values() if module.path.name != "__init__.py"]
    lines = [module.lines for module in written]
    functions = [size for module in written for size in module.function_lines]
    importers = find_importers(modules)
    print(f"modules          {len(written)}, and {len(modules) - len(written)} packages")
    print(f"lines            {sum(module.lines for module in modules.values())}")
    print(f"lines a module   median {statistics.median(lines):.0f}, p90 {percentile(lines, 0.9)}, most {max(lines)}")
    print(f"lines a function median {statistics.median(functions):.0f}, p90 {percentile(functions, 0.9)}, most {max(functions)}")
    print(f"one importer     {sum(len(importers[module.name]) == 1 for module in written)} modules")
    cycles = find_cycles(modules)
    print(f"import cycles    {len(cycles)}")
    for cycle in cycles:
        print("  " + " ".join(cycle))
    print("folders touched outside the own, core and http:")
    foreign = find_foreign_imports(modules)
    sizes = {folder: [m.lines for m in written if m.folder == folder] for folder in sorted({m.folder for m in written})}
    for folder, found in sizes.items():
        touched = ", ".join(f"{other} ({len(names)})" for other, names in sorted(foreign[folder].items()))
        print(f"  {folder:18} {len(found):3} modules {sum(found):6} lines  {touched or 'none'}")
    if "--names" in sys.argv[1:]:
        print_names(written, importers)


def print_names(modules: list[Module], importers: dict[str, list[str]]) -> None:
    print("modules with one importer:")
    for module in modules:
        if len(importers[module.name]) == 1:
            print(f"  {module.lines:4} {module.name:50} {importers[module.name][0]}")
    print(f"modules over {LONG_MODULE_LINES} lines, and functions over {LONG_FUNCTION_LINES}:")
    for module in sorted(modules, key=lambda module: -module.lines):
        longest = max(module.function_lines, default=0)
        if module.lines > LONG_MODULE_LINES or longest > LONG_FUNCTION_LINES:
            print(f"  {module.lines:4} {module.name:50} longest function {longest}")


if __name__ == "__main__":
    main()
