"""What can be said of a backbone by its name without importing PyTorch, which takes seconds.

A file or a package may be missing. timm and torchvision register a model under the name of a function, or
under another name that a file gives it: what their files do not hold anywhere they do not know; of all else
they have to be asked.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from depthsearch.errors import SettingsError
from depthsearch.models.backbones.usercode import read_code
from depthsearch.options.backbones import parse_name

# timm's names of models that only this package knows, and that nobody has pretrained.
FROM_SCRATCH = ("cnn",)
REGISTERED = re.compile(r"^@register_model(?:\(.*\))?\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
# Of a library in which fewer are found nothing is refused: its files are written in another way.
FEWEST_NAMES = 50
WORD = re.compile(r"\w+")
# With the tag of its weights.
TAGGED = re.compile(r"""["'](\w+)\.[\w.-]+["']\s*:""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A library of models.

    Attributes:
        name: Of its package.
        files: Those that define its models, as a pattern.
        noun: What its models are called.
        lists: What lists them, as code.
    """

    name: str
    files: str
    noun: str
    lists: str


TIMM = Library(name="timm", files="models/**/*.py", noun="model", lists="timm.list_models()")
TORCHVISION = Library(
    name="torchvision",
    files="models/*.py",
    noun="image classifier",
    lists="torchvision.models.list_models()",
)


def check_requirements(name: str) -> None:
    """Refuse a backbone whose file or package is missing, or whose name its library cannot know.

    Raises:
        SettingsError: If it is.
    """
    parsed = parse_name(name)
    match parsed.source:
        case "file":
            read_code(Path(parsed.name))
        case "hf":
            require_transformers()
        case "timm":
            refuse_unheard_of(TIMM, parsed.name)
        case "torchvision":
            refuse_unheard_of(TORCHVISION, parsed.name)


def require_transformers() -> None:
    """Refuse to go on where the package is missing.

    Raises:
        SettingsError: If it is.
    """
    if find_spec("transformers") is None:
        raise SettingsError(
            '--backbone hf:NAME needs transformers: pip install "depthsearch[transformers]", or take a '
            "backbone of timm's or torchvision's."
        )


def refuse_unheard_of(library: Library, name: str) -> None:
    """Refuse a model's name that no file of the installed library holds.

    Raises:
        SettingsError: If none does, with names that are like it.
    """
    source, plain = _source_of(library), name.partition(".")[0]
    is_read = len(source.names) >= FEWEST_NAMES
    if is_read and plain not in FROM_SCRATCH and plain not in source.words:
        raise unknown_model(library, name, source.names, source.pretrained)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What the files that define a library's models hold.

    Attributes:
        words: All that may be a name.
        names: Of the models that are registered under the name of a function.
        pretrained: Of those that have weights.
    """

    words: frozenset[str]
    names: frozenset[str]
    pretrained: frozenset[str]


@functools.cache
def _source_of(library: Library) -> _Source:
    """Read the files that define a library's models; nothing where they cannot be read."""
    found = find_spec(library.name)
    folders = [] if found is None else found.submodule_search_locations or []
    paths = [path for folder in folders for path in Path(folder).glob(library.files)]
    try:
        text = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)
    except OSError:
        text = ""
    words, names, pretrained = (frozenset(each.findall(text)) for each in (WORD, REGISTERED, TAGGED))
    return _Source(words=words, names=names, pretrained=pretrained)


def unknown_model(
    library: Library, name: str, known: Collection[str], pretrained: Collection[str] = ()
) -> SettingsError:
    """Make the error that a library has no such model, with names that are like it.

    Args:
        library: Which.
        name: The wrong one.
        known: Those of its models.
        pretrained: Those to name first.
    """
    near = _near(re.split("[:@]", name)[0], known, pretrained)
    hint = f"Near: {', '.join(near)}." if near else f"{library.lists} lists them."
    if ":" in name and library is TIMM:
        hint = "What has a colon is torchvision:NAME, hf:NAME or FILE.py:FUNCTION."
    elif ":" in name:
        hint = f"Weights are named behind an @: torchvision:{name.replace(':', '@', 1)}."
    return SettingsError(f"{library.name} {version(library.name)} has no {library.noun} {name!r}. {hint}")


def _near(name: str, known: Collection[str], pretrained: Collection[str]) -> list[str]:
    """List models whose names hold this one, or are like it, the plainest first; a tag does not matter."""
    lowered = name.partition(".")[0].lower()

    def rank(model: str) -> tuple[bool, bool, int, str]:
        return model not in pretrained, not model.startswith(lowered), len(model), model

    holding = sorted((model for model in known if lowered and lowered in model), key=rank)
    return holding[:4] or difflib.get_close_matches(lowered[:40], known, n=4, cutoff=0.75)
