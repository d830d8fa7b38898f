"""The house rules that no linter knows: budgets, empty packages, exit codes, quick imports."""

import ast
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import nodectl
from nodectl.errors import NodectlError

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "nodectl"
MODULES = sorted(module.name for module in pkgutil.walk_packages([str(PACKAGE)], prefix="nodectl."))

MODULE_LINES = 450
FUNCTION_LINES = 60
NESTING = 4
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

HEAVY = ("aiohttp", "blake3", "cryptography", "sqlite3", "zstandard")

# Statuses that are not an error of ours: success, a bug, wrong usage, stopped by a signal.
_RESERVED = {0, 1, 2, 126, 127} | set(range(128, 256))


def _parsed() -> Iterator[tuple[str, str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        yield str(path.relative_to(REPOSITORY)), text, ast.parse(text)


def _depth(node: ast.AST, above: ast.AST | None = None) -> int:
    """Return how deeply blocks are nested below `node`; an `elif` is on its `if`'s level."""
    elif_ = isinstance(node, ast.If) and isinstance(above, ast.If) and above.orelse == [node]
    inner = max(
        (_depth(n, node) for n in ast.iter_child_nodes(node) if not isinstance(n, _FUNCTIONS)),
        default=0,
    )
    return inner + (isinstance(node, _BLOCKS) and not elif_)


def test_modules_are_short() -> None:
    lengths = {name: len(text.splitlines()) for name, text, _ in _parsed()}
    assert {name: lines for name, lines in lengths.items() if lines > MODULE_LINES} == {}


def _functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for name, _, tree in _parsed():
        for node in ast.walk(tree):
            if isinstance(node, _FUNCTIONS):
                yield f"{name}:{node.lineno} {node.name}", node


def test_functions_are_short() -> None:
    lengths = {place: (node.end_lineno or 0) - node.lineno + 1 for place, node in _functions()}
    assert {place: lines for place, lines in lengths.items() if lines > FUNCTION_LINES} == {}


def test_functions_are_flat() -> None:
    depths = {place: _depth(node) for place, node in _functions()}
    assert {place: depth for place, depth in depths.items() if depth > NESTING} == {}


def test_init_files_are_empty_and_every_folder_has_one() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert {folder for folder in folders if not (folder / "__init__.py").is_file()} == set()
    assert [path for path in PACKAGE.rglob("__init__.py") if path.stat().st_size] == []


@pytest.mark.parametrize("name", ["utils", "helpers", "common", "misc"])
def test_no_module_is_named_for_nothing(name: str) -> None:
    assert list(PACKAGE.rglob(f"{name}.py")) == []


def _leaves(kind: type[NodectlError]) -> Iterator[type[NodectlError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _leaves(below)


def test_every_error_has_an_exit_code_of_its_own() -> None:
    for module in MODULES:
        if not module.endswith("__main__"):
            import_module(module)
    codes: dict[int, str] = {}
    for kind in _leaves(NodectlError):
        assert kind.exit_code not in _RESERVED, kind
        assert kind.exit_code not in codes, f"{kind.__name__} and {codes[kind.exit_code]}"
        assert kind.__doc__, f"{kind.__name__} does not say what it means"
        codes[kind.exit_code] = kind.__name__
    assert len(codes) > 30


# Forks from an interpreter that has the libraries but nothing of nodectl: each child imports one
# module, and a cycle that another order of imports would hide comes to light.
_IMPORT_ALONE = """
import os, sys, traceback
import aiohttp, cryptography, typer, zstandard
failed = []
for name in sys.argv[1:]:
    pid = os.fork()
    if not pid:
        try:
            __import__(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        failed.append(name)
sys.exit(" ".join(failed) or 0)
"""


def _python(code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_module_imports_alone() -> None:
    names = [name for name in MODULES if not name.endswith("__main__")]
    assert "nodectl.content.frame" in names
    done = _python(_IMPORT_ALONE, *names)
    assert done.returncode == 0, done.stderr


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    done = _python(
        f"import sys, nodectl.cli.main\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_the_tests_look_at_this_copy() -> None:
    assert Path(next(iter(nodectl.__path__))) == PACKAGE
