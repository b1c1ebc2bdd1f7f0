"""torchvision's data sets for classification, with the splits that they have."""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from depthsearch.data.decode import Decoded, Geometry, UnreadableError, decode_image
from depthsearch.data.listing import Listing
from depthsearch.data.ranges import ValueRange
from depthsearch.errors import DataError
from depthsearch.hashing import digest_of

PREFIX = "torchvision:"


@dataclass(frozen=True, slots=True)
class KnownSet:
    """How a data set of torchvision is used.

    Attributes:
        splits: Arguments that load each split.
        labels: Attribute with the label of each sample, or with its image and label; empty: the samples are
            read for them.
        names: Attribute with the classes' names; empty: they are numbers.
    """

    splits: Mapping[str, Mapping[str, object]]
    labels: str = ""
    names: str = "classes"


def _by_split(*same: str, **words: str) -> dict[str, dict[str, object]]:
    return {split: {"split": word} for split, word in (dict(zip(same, same, strict=True)) | words).items()}


_ALL: dict[str, dict[str, object]] = {"train": {}}
_BY_TRAIN: dict[str, dict[str, object]] = {"train": {"train": True}, "test": {"train": False}}
_TWO, _THREE = _by_split("train", "test"), _by_split("train", "val", "test")
SETS = {
    "CIFAR10": KnownSet(_BY_TRAIN, "targets"),
    "CIFAR100": KnownSet(_BY_TRAIN, "targets"),
    "CLEVRClassification": KnownSet(_THREE, "_labels", ""),
    "Caltech101": KnownSet(_ALL, "y", "categories"),
    "Caltech256": KnownSet(_ALL, "y", "categories"),
    "Country211": KnownSet(_by_split("train", "test", val="valid"), "targets"),
    "DTD": KnownSet(_THREE, "_labels"),
    "EuroSAT": KnownSet(_ALL, "targets"),
    "FER2013": KnownSet(_TWO, "_samples", ""),
    "FGVCAircraft": KnownSet(_THREE, "_labels"),
    "FashionMNIST": KnownSet(_BY_TRAIN, "targets"),
    "Flowers102": KnownSet(_THREE, "_labels"),
    "Food101": KnownSet(_TWO, "_labels"),
    "GTSRB": KnownSet(_TWO, "_samples", ""),
    "INaturalist": KnownSet(_ALL, "", ""),
    "ImageNet": KnownSet(_by_split("train", "val"), "targets"),
    "Imagenette": KnownSet(_by_split("train", "val"), "_samples"),
    "KMNIST": KnownSet(_BY_TRAIN, "targets"),
    "LFWPeople": KnownSet(_TWO, "targets", ""),
    "LSUN": KnownSet(_ALL),
    "MNIST": KnownSet(_BY_TRAIN, "targets"),
    "Omniglot": KnownSet(_ALL, "", ""),
    "OxfordIIITPet": KnownSet(_by_split("test", train="trainval"), "_labels"),
    "PCAM": KnownSet(_THREE, "", ""),
    "Places365": KnownSet(_by_split("val", train="train-standard"), "targets"),
    "QMNIST": KnownSet(_BY_TRAIN),
    "RenderedSST2": KnownSet(_THREE, "_samples"),
    "SEMEION": KnownSet(_ALL, "labels", ""),
    "STL10": KnownSet(_TWO, "labels"),
    "SUN397": KnownSet(_ALL, "_labels"),
    "SVHN": KnownSet(_TWO, "labels", ""),
    "StanfordCars": KnownSet(_TWO, "_samples"),
    "USPS": KnownSet(_BY_TRAIN, "targets", ""),
}
# Attributes of a set that say where it is downloaded from.
_ORIGINS = (
    "url", "mirrors", "_URL", "download_url_prefix", "_download_url_prefix", "_DATASET_URL", "_BASE_URL"
)  # fmt: skip


def known_set(name: str) -> KnownSet:
    """Return how a set is used.

    Raises:
        DataError: If there is no such set for classification.
    """
    if name not in SETS:
        by_lower = {key.lower(): key for key in SETS}
        near = [by_lower[key] for key in difflib.get_close_matches(name.lower(), by_lower, cutoff=0.5)]
        hint = f"Near: {', '.join(near)}." if near else f"It has {', '.join(SETS)}."
        raise DataError(f"torchvision has no data set for classification called {name!r}. {hint}")
    return SETS[name]


def list_torchvision(name: str, *, folder: Path) -> Listing:
    """List the images of a set, which is downloaded if it is not there.

    Args:
        name: Of a class in ``torchvision.datasets``.
        folder: Where the files of such sets lie, in a folder each.

    Raises:
        DataError: If there is no such set for classification, or it cannot be had.
    """
    known, root = known_set(name), folder / name
    loaded = {split: _load(name, root, options) for split, options in known.splits.items()}
    labelled = {split: (part, _labels_of(name, part, known)) for split, part in loaded.items()}
    # Of some sets the test images come without labels.
    parts = {split: part for split, (part, labels) in labelled.items() if None not in labels[:1]}
    together = np.array([label for split in parts for label in labelled[split][1]], dtype=np.int64)
    names = _class_names(parts["train"], known, sorted(set(together.tolist())))
    classes = tuple(sorted(names.values()))
    places = {label: classes.index(named) for label, named in names.items()}
    images = [(part, index) for part in parts.values() for index in range(len(part))]

    def decode(index: int, geometry: Geometry | None, _: Sequence[ValueRange]) -> Decoded:
        part, place = images[index]
        return decode_image(_sample(name, part, place)[0], geometry)

    return Listing(
        name=name,
        source=f"{PREFIX}{name}",
        classes=classes,
        paths=tuple(f"{split}/{index:05d}" for split, part in parts.items() for index in range(len(part))),
        labels=np.array([places[label] for label in together.tolist()], dtype=np.int64),
        splits=np.concatenate([np.full(len(part), split) for split, part in parts.items()]),
        stamp=[str(root), _files(root), digest_of(together.tobytes(), n_bytes=64)],
        decode=decode,
        known_by=tuple(names[label] for label in together.tolist()),
        layout=f"torchvision: {', '.join(parts)}",
    )


def _load(name: str, root: Path, options: Mapping[str, object]) -> Any:
    """Load one split, downloading it if need be."""
    # Imported here because a folder of images does not need it.
    from torchvision import datasets

    kind: Any = getattr(datasets, name)
    root.mkdir(parents=True, exist_ok=True)
    # What the sets print is no result of ours.
    with contextlib.redirect_stdout(sys.stderr), _memory_named(f"to load {PREFIX}{name}"):
        try:
            try:
                return kind(root, **options)
            except (RuntimeError, OSError, ValueError) as error:
                missing = error
            try:
                return kind(root, **options, download=True)
            except TypeError:  # it cannot be downloaded
                raise missing from None
        except MemoryError:
            raise
        except Exception as error:  # a set's own reader may raise anything on damaged files
            origins = [getattr(kind, attribute, None) for attribute in _ORIGINS]
            origin = next((o if isinstance(o, str) else o[0] for o in origins if o), "its home")
            raise DataError(
                f"{PREFIX}{name} is not in {root} and cannot be had from {origin}: {_reason(error)}. Put its "
                "files there as torchvision wants them, or try again with a network."
            ) from error


@contextlib.contextmanager
def _memory_named(what: str) -> Iterator[None]:
    """Name what the memory does not suffice for: that is no fault of a set or an image."""
    try:
        yield
    except MemoryError as error:
        raise DataError(
            f"The memory does not suffice {what}. Close other programs, or use a machine with more."
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _sample(name: str, part: Any, place: int) -> Any:
    """Read one sample of a split, an image and its label."""
    with _memory_named(f"to decode image {place} of {PREFIX}{name}"):
        try:
            return part[place]
        except MemoryError:
            raise
        except Exception as error:  # a set's own reader may raise anything on damaged files
            raise UnreadableError(
                f"Cannot read image {place} of {PREFIX}{name}: {_reason(error)}. Remove {part.root}, so that "
                "it is downloaded again, or leave out such images with --skip-unreadable "
                "(skip_unreadable=True)."
            ) from error


def _labels_of(name: str, part: Any, known: KnownSet) -> list[int | None]:
    """List the labels of a split, without reading its images where it keeps them apart."""
    if not known.labels:
        return [_sample(name, part, place)[1] for place in range(len(part))]
    stored = getattr(part, known.labels)
    values = stored.tolist() if hasattr(stored, "tolist") else stored
    return [value[1] if isinstance(value, tuple) else value for value in values]


def _class_names(part: Any, known: KnownSet, labels: list[int]) -> dict[int, str]:
    """Name the classes that occur: as the set does, else by number."""
    given = getattr(part, known.names, ()) if known.names else ()
    names = [name if isinstance(name, str) else ", ".join(map(str, name)) for name in given]
    by_label = {label: names[label] if 0 <= label < len(names) else str(label) for label in labels}
    taken = list(by_label.values())
    return {label: f"{name} ({label})" if taken.count(name) > 1 else name for label, name in by_label.items()}


def _files(root: Path) -> list[tuple[str, int, int]]:
    """List the set's files with their sizes in bytes and times of change in ns."""
    stats = [(path, path.stat()) for path in sorted(root.rglob("*")) if path.is_file()]
    return [(path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
