"""Names of classes that cannot be written down, or told apart."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence

from depthsearch.errors import DataError
from depthsearch.wording import printable


def check_names(classes: Sequence[str], source: str) -> tuple[str, ...]:
    """Refuse names that no database takes or that nobody can tell apart.

    Args:
        classes: Names of the classes.
        source: Where they come from, for the message.

    Returns:
        What the user should know of them, a line each.

    Raises:
        DataError: If a name is no UTF-8, or two differ in nothing but their Unicode form.
    """
    for name in classes:
        if name.encode(errors="replace").decode() != name:
            raise DataError(
                f"Class '{printable(name)}' of {source} has a name that is not in UTF-8. Rename it, in ASCII "
                "for one."
            )
    for one, other in _alike(classes, lambda name: unicodedata.normalize("NFC", name)):
        raise DataError(
            f"Classes {one!a} and {other!a} of {source} are written alike: only their Unicode form "
            "differs, as between a Mac and other systems. Merge them, or rename one."
        )
    return tuple(
        f"Classes {one!r} and {other!r} differ only in case: are they one?"
        for one, other in _alike(classes, lambda name: unicodedata.normalize("NFC", name).casefold())
    )


def _alike(classes: Sequence[str], form: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Pair each name with an earlier one of the same form."""
    seen: dict[str, str] = {}
    for name in classes:
        earlier = seen.setdefault(form(name), name)
        if earlier != name:
            yield earlier, name
