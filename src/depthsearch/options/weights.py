"""``--weights``: one word or file for every backbone, or ``NAME=FILE`` for some of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from depthsearch.errors import SettingsError
from depthsearch.files import full_path

# Words that are no files.
WORDS = ("auto", "random")


def weights_by_backbone(given: str, backbones: Sequence[str]) -> dict[str, str]:
    """Return the weights of each backbone; of several, those that are not named get ``auto``.

    Args:
        given: ``auto``, ``random``, a file, or a list such as ``densenet121=w.safetensors,resnet50=random``.
        backbones: Their names.

    Raises:
        SettingsError: If one file is given for several backbones, or one backbone has two.
    """
    named = [part.partition("=") for part in given.split(",")]
    if any(not equals or name not in backbones for name, equals, _ in named):
        if len(backbones) > 1 and given not in WORDS:
            raise SettingsError(
                f"--weights {given}: one file is no weights for {len(backbones)} backbones. "
                f"Give auto, random, or {backbones[-1]}=FILE."
            )
        return dict.fromkeys(backbones, given)
    counts = Counter(name for name, _, _ in named)
    if twice := min((name for name, n in counts.items() if n > 1), default=None):
        raise SettingsError(f"--weights {given}: {twice} is given twice. Keep one of them.")
    return {**dict.fromkeys(backbones, "auto"), **{name: value for name, _, value in named}}


def with_full_paths(given: str, backbones: Sequence[str]) -> str:
    """Write the same with full paths, so that it means the same in any folder."""
    each = {
        name: value if value in WORDS else str(full_path(value))
        for name, value in weights_by_backbone(given, backbones).items()
    }
    alike = set(each.values())
    return alike.pop() if len(alike) == 1 else ",".join(f"{name}={value}" for name, value in each.items())
