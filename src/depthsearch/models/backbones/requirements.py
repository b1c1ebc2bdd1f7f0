"""What a backbone needs on this machine, as far as it can be checked without PyTorch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from depthsearch.errors import SettingsError
from depthsearch.models.backbones.usercode import read_code
from depthsearch.options.backbones import parse_name


def check_requirements(name: str) -> None:
    """Refuse a backbone whose file or package is missing.

    Raises:
        SettingsError: If it is.
    """
    parsed = parse_name(name)
    if parsed.source == "file":
        read_code(Path(parsed.name))
    elif parsed.source == "hf":
        require_transformers()


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
