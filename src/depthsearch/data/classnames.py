"""Names of classes that cannot be written down, or told apart."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Hashable, Iterator, Sequence
from decimal import Decimal, InvalidOperation

from depthsearch.errors import DataError
from depthsearch.text import printable

# Blank and yet no spaces to Unicode: braille without points, fillers of Hangul.
_BLANK = "\u2800\u3164\u115f\u1160\uffa0"
# Seen as nothing and yet no format characters: selectors of a variant, a joiner of marks.
_UNSEEN = {0x034F, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0), *range(0x180B, 0x1810)}
# Cyrillic and Greek letters and hyphens that are drawn like those of ASCII.
_TWINS = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u0501"
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0406\u0408\u0405"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf"
    "\u2010\u2011",
    "aeopcyxijshdABEKMHOPCTXIJSABEZHIKMNOPTYXo--",
)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
# A dash before a number, and no joint of two words.
_MINUS = re.compile(r"(?:^|(?<=\s))[-\u2012\u2013\u2212](?=\.?[0-9])")
_QUOTES = "\"'\u201c\u201d"
_JOINTS = str.maketrans(
    dict.fromkeys("_-\u2012\u2013\u2014\u2015\u2212", " ") | {"\u2019": "'", "\u2018": "'"}
)


def check_names(classes: Sequence[str], source: str) -> tuple[str, ...]:
    """Refuse names that no database takes or that nobody can tell apart.

    Args:
        classes: Names of the classes.
        source: Where they come from, for the message.

    Returns:
        What the user should know of them, a line each.

    Raises:
        DataError: If a name is no UTF-8 or cannot be seen, or two look the same.
    """
    for name in classes:
        if name.encode(errors="replace").decode() != name:
            raise DataError(
                f"Class '{printable(name)}' of {source} has a name that is not in UTF-8. Rename it, in ASCII "
                "for one."
            )
        if not (visible_form(name) or any(unicodedata.category(each) == "Cc" for each in name)):
            raise DataError(f"Class {name!a} of {source} has a name that cannot be seen. Rename it.")
    for one, other in _alike(classes, lambda name: unicodedata.normalize("NFC", name)):
        raise DataError(
            f"Classes {one!a} and {other!a} of {source} are written alike: only their Unicode form "
            "differs, as between a Mac and other systems. Merge them, or rename one."
        )
    if pairs := list(_alike(classes, visible_form)):
        shown = "; ".join(f"{one!a} and {other!a}" for one, other in pairs[:3])
        more = f" (and {len(pairs) - 3} more pairs)" if len(pairs) > 3 else ""
        raise DataError(
            f"Classes {shown}{more} of {source} look alike: only kinds of spaces, invisible characters or "
            "letters of other scripts differ. Merge them, or rename one."
        )
    return tuple(
        f"Classes {one!r} and {other!r} differ only in {_difference(one, other)}: are they one?"
        for one, other in _alike(classes, _spoken_form)
    )


def visible_form(name: str) -> str:
    """Return what can be seen of a name: one form of all names that look the same."""
    shown = unicodedata.normalize("NFC", name).translate(_TWINS)
    characters = (
        " " if character in _BLANK or character.isspace() else character
        for character in shown
        if character.isspace()
        or (unicodedata.category(character) not in ("Cf", "Cc") and ord(character) not in _UNSEEN)
    )
    return " ".join("".join(characters).split())


def _spoken_form(name: str) -> str | Decimal:
    """Return one form of all names that are read out alike."""
    if (number := _as_number(name)) is not None:
        return number
    shown = _MINUS.sub("minus ", unicodedata.normalize("NFKC", visible_form(name)).strip(_QUOTES))
    return " ".join(shown.translate(_JOINTS).casefold().split())


def _as_number(name: str) -> Decimal | None:
    """Return the number that a name writes, exactly: with a sign, a point, leading zeros; None of others."""
    shown = _MINUS.sub("-", unicodedata.normalize("NFKC", visible_form(name)).strip(_QUOTES).strip())
    if not _NUMBER.fullmatch(shown):
        return None
    try:
        return Decimal(shown)
    except InvalidOperation:
        return None  # an exponent without end


def _difference(one: str, other: str) -> str:
    if _as_number(one) is not None:
        return "how a number is written"
    same_case = unicodedata.normalize("NFC", one).casefold() == unicodedata.normalize("NFC", other).casefold()
    return "case" if same_case else "case, dashes, underscores, quotation marks or the like"


def _alike(classes: Sequence[str], form: Callable[[str], Hashable]) -> Iterator[tuple[str, str]]:
    """Pair each name with an earlier one of the same form."""
    earlier_of: dict[Hashable, str] = {}
    for name in classes:
        earlier = earlier_of.setdefault(form(name), name)
        if earlier != name:
            yield earlier, name
