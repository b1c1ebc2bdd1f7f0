"""The suite itself: what takes long says why."""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent


def slow_tests(path: Path) -> Iterator[ast.FunctionDef]:
    """Functions of a module that are slow as a whole, and not in some of their cases alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    marks = [ast.unparse(each.value) for each in tree.body if isinstance(each, ast.Assign)]
    is_slow_module = any(mark.startswith("pytest.mark.slow") for mark in marks)
    for each in ast.walk(tree):
        if isinstance(each, ast.FunctionDef) and each.name.startswith("test_"):
            decorators = map(ast.unparse, each.decorator_list)
            if is_slow_module or any(name.startswith("pytest.mark.slow") for name in decorators):
                yield each


def test_a_slow_test_says_what_it_guards() -> None:
    each = [(path.name, test) for path in sorted(TESTS.rglob("test_*.py")) for test in slow_tests(path)]
    assert len(each) > 100
    assert [(name, test.name) for name, test in each if not ast.get_docstring(test)] == []
