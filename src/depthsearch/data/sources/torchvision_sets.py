"""Data sets that torchvision knows by name, with the splits that they have."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depthsearch.data.decode import Decoded, Geometry, UnreadableError, decode_image
from depthsearch.data.listing import SPLITS, Listing
from depthsearch.data.ranges import ValueRange
from depthsearch.errors import DataError

PREFIX = "torchvision:"
# How a split is asked for, in the words of the sets that have the argument ``split``.
_WORDS = {
    "train": ("train", "trainval", "train-standard"),
    "val": ("val", "valid"),
    "test": ("test",),
}
# Known to give no picture with one class each: better said before they are downloaded.
_WITHOUT_CLASSES = (
    "CREStereo", "CarlaStereo", "CelebA", "Cityscapes", "CocoCaptions", "CocoDetection", "ETH3DStereo",
    "FallingThingsStereo", "Flickr30k", "Flickr8k", "FlyingChairs", "FlyingThings3D", "HD1K", "HMDB51",
    "InStereo2k", "Kinetics", "Kitti", "Kitti2012Stereo", "Kitti2015Stereo", "KittiFlow", "LFWPairs",
    "Middlebury2014Stereo", "MovingMNIST", "PhotoTour", "SBDataset", "SBU", "SceneFlowStereo", "Sintel",
    "SintelStereo", "UCF101", "VOCDetection", "VOCSegmentation", "WIDERFace",
)  # fmt: skip
# Classes of torchvision.datasets that are no set of images by themselves.
_NO_SETS = ("VisionDataset", "DatasetFolder", "ImageFolder", "FakeData", "LSUNClass")
# Where the sets keep their labels.
_LABELS = ("targets", "_labels", "labels", "y", "_samples", "samples")
_ORIGINS = (
    "url",
    "mirrors",
    "_URL",
    "download_url_prefix",
    "_download_url_prefix",
    "_DATASET_URL",
    "_BASE_URL",
)


def list_torchvision(name: str, *, folder: Path) -> Listing:
    """List the images of a set, which is downloaded if it is not there.

    Args:
        name: Of a class in ``torchvision.datasets``.
        folder: Where the files of such sets lie, in a folder each.

    Raises:
        DataError: If there is no such set, it has no classes, or it cannot be had.
    """
    kind = _named(name)
    root = folder / name
    parts = {split: part for split, part in _parts(name, kind, root) if _is_labelled(name, part)}
    if "train" not in parts:
        raise DataError(
            f"{PREFIX}{name} gives no labelled images to train on by its name alone. Give another."
        )
    labels = {split: _labels_of(name, part) for split, part in parts.items()}
    together = np.concatenate(list(labels.values()))
    names = _class_names(parts["train"], sorted(set(together.tolist())))
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
        stamp=[str(root), _files(root), hashlib.blake2b(together.tobytes()).hexdigest()],
        decode=decode,
        known_by=tuple(names[label] for label in together.tolist()),
        layout=f"torchvision: {', '.join(parts)}",
    )


def _named(name: str) -> Any:
    """Find a set's class."""
    # Imported here because a folder of images does not need it.
    from torchvision import datasets

    known = {
        key: value
        for key, value in vars(datasets).items()
        if inspect.isclass(value) and issubclass(value, datasets.VisionDataset) and key not in _NO_SETS
    }
    if name not in known:
        by_lower = {key.lower(): key for key in known if key not in _WITHOUT_CLASSES}
        near = [by_lower[key] for key in difflib.get_close_matches(name.lower(), by_lower, cutoff=0.5)]
        hint = f"Near: {', '.join(near)}." if near else f"It has {', '.join(sorted(by_lower.values()))}."
        raise DataError(f"torchvision has no data set {name!r}. {hint}")
    if name in _WITHOUT_CLASSES:
        raise _without_classes(name, "its samples are something else")
    return known[name]


def _without_classes(name: str, why: str) -> DataError:
    return DataError(
        f"{PREFIX}{name} does not give a picture and its class for each sample: {why}. Give a set for "
        "classification, such as CIFAR100, Flowers102 or OxfordIIITPet."
    )


def _parts(name: str, kind: Any, root: Path) -> Iterator[tuple[str, Any]]:
    """Load a set's splits, those that it has."""
    parameters = inspect.signature(kind).parameters
    asked: Mapping[str, list[dict[str, Any]]]
    if "train" in parameters:
        asked = {"train": [{"train": True}], "test": [{"train": False}]}
    elif "split" in parameters:
        asked = {split: [{"split": word} for word in _WORDS[split]] for split in SPLITS}
    else:
        asked = {"train": [{}]}
    for split, choices in asked.items():
        for options in choices:
            part = _load(name, kind, root, options)
            if part is not None:
                yield split, part
                break


def _load(name: str, kind: Any, root: Path, options: Mapping[str, Any]) -> Any:
    """Load one split, downloading it if need be; None where the set knows no such split."""
    root.mkdir(parents=True, exist_ok=True)
    # What they print is no result of ours.
    with contextlib.redirect_stdout(sys.stderr), _memory_named(f"to load {PREFIX}{name}"):
        try:
            return kind(root, **options)
        except (RuntimeError, OSError, ValueError) as error:
            if "Unknown value" in str(error):
                return None
            missing = error
        except MemoryError:
            raise
        except Exception as error:
            raise _not_had(name, kind, root, error) from error
        try:
            return kind(root, **options, download=True)
        except TypeError as error:
            # It cannot download, or wants more than its name.
            raise _not_had(name, kind, root, missing) from error
        except MemoryError:
            raise
        except Exception as error:
            raise _not_had(name, kind, root, error) from error


@contextlib.contextmanager
def _memory_named(what: str) -> Iterator[None]:
    """Refuse to go on where the memory does not suffice: that says nothing of a set or an image."""
    try:
        yield
    except MemoryError as error:
        raise DataError(
            f"The memory does not suffice {what}. Close other programs, or use a machine with more."
        ) from error


def _not_had(name: str, kind: Any, root: Path, error: Exception) -> DataError:
    origins = [getattr(kind, attribute, None) for attribute in _ORIGINS]
    origin = next((o if isinstance(o, str) else o[0] for o in origins if o), "its home")
    return DataError(
        f"{PREFIX}{name} is not in {root} and cannot be had from {origin}: {_reason(error)}. Put its files "
        "there as torchvision wants them, or try again with a network."
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _sample(name: str, part: Any, place: int) -> Any:
    """Read one sample of a split.

    Raises:
        UnreadableError: If that fails, in whatever way.
        DataError: If the memory does not suffice for it.
    """
    try:
        with _memory_named(f"to decode image {place} of {PREFIX}{name}"):
            return part[place]
    except DataError:
        raise
    except Exception as error:
        raise UnreadableError(
            f"Cannot read image {place} of {PREFIX}{name}: {_reason(error)}. Remove {part.root}, so that it "
            "is downloaded again, or leave out such images with --skip-unreadable (skip_unreadable=True)."
        ) from error


def _is_labelled(name: str, part: Any) -> bool:
    """Whether a split has classes; some test images have none.

    Raises:
        DataError: If its samples are no pictures, or their targets no classes.
    """
    sample = _sample(name, part, 0)
    if not (isinstance(sample, tuple) and len(sample) == 2 and isinstance(sample[0], Image.Image)):
        raise _without_classes(name, f"it gives {_kind_of(sample)}")
    if sample[1] is None:
        return False
    if _as_label(sample[1]) is None:
        raise _without_classes(name, f"the target is of type {type(sample[1]).__name__}")
    return True


def _kind_of(sample: Any) -> str:
    parts = sample if isinstance(sample, tuple) else (sample,)
    return " and ".join(type(part).__name__ for part in parts)


def _as_label(value: Any) -> int | None:
    """Read a class label; None where it is something else."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    return None


def _labels_of(name: str, part: Any) -> NDArray[np.int64]:
    """Give the labels of a split without reading its images, if they are where they usually are."""
    length = len(part)

    def label_at(place: int) -> int | None:
        return _as_label(_sample(name, part, place)[1])

    checked = sorted({0, length // 2, length - 1})
    for attribute in _LABELS:
        stored = _label_list(getattr(part, attribute, None))
        if len(stored) == length and all(stored[place] == label_at(place) for place in checked):
            return np.array(stored, dtype=np.int64)
    return np.array([label_at(place) for place in range(length)], dtype=np.int64)


def _label_list(stored: Any) -> list[int]:
    """Take labels, or pairs of which they are the second; empty where there are none."""
    if hasattr(stored, "tolist"):
        stored = stored.tolist()
    if not isinstance(stored, list):
        return []
    labels = [value[1] if isinstance(value, tuple) and len(value) == 2 else value for value in stored]
    return labels if all(_as_label(label) is not None for label in labels) else []


def _class_names(part: Any, labels: list[int]) -> dict[int, str]:
    """Name the classes that occur: as the set does, else by number."""
    known = getattr(part, "classes", None) or getattr(part, "categories", None) or ()
    names = [name if isinstance(name, str) else ", ".join(map(str, name)) for name in known]
    found = {label: names[label] if 0 <= label < len(names) else str(label) for label in labels}
    taken = list(found.values())
    return {label: f"{name} ({label})" if taken.count(name) > 1 else name for label, name in found.items()}


def _files(root: Path) -> list[tuple[str, int, int]]:
    """List the set's files with their sizes in bytes and times of change in ns."""
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        stat = path.stat()
        found.append((path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns))
    return found
