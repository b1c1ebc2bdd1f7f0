"""The suite itself: what takes long says why."""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent


def slow_functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Tests that are slow as a whole, and not in some of their cases alone."""
    for each in ast.walk(tree):
        is_test = isinstance(each, ast.FunctionDef) and each.name.startswith("test_")
        if is_test and "pytest.mark.slow" in map(ast.unparse, each.decorator_list):
            yield each


def unexplained(path: Path) -> list[str]:
    """Names of slow tests without a docstring; a module that is slow as a whole says it in its own."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [each.name for each in slow_functions(tree) if not ast.get_docstring(each)]
    assigned = [ast.unparse(each) for each in tree.body if isinstance(each, ast.Assign)]
    is_slow = any(each.startswith("pytestmark =") and "pytest.mark.slow" in each for each in assigned)
    if is_slow and "uards" not in (ast.get_docstring(tree) or ""):
        names.append(path.name)
    return names


def test_what_is_slow_says_what_it_guards() -> None:
    paths = sorted(TESTS.rglob("test_*.py"))
    assert sum(len(list(slow_functions(ast.parse(path.read_text("utf-8"))))) for path in paths) > 100
    assert [name for path in paths for name in unexplained(path)] == []
