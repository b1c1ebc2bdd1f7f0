"""How a folder's folders are meant: as classes, or as splits that hold classes, or the other way round.

Three layouts: ``DIR/<class>/...``, ``DIR/<split>/<class>/...`` and ``DIR/<class>/<split>/...``. Splits are
called as `listing.SPLIT_WORDS` says, alone or with more around it: ``seg_train`` and ``seg_test``,
``training_set`` and ``test_set``. What can be meant in two ways is refused, with both.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from depthsearch.data.classnames import visible_form
from depthsearch.data.listing import SPLIT_WORDS, SPLITS, a_few
from depthsearch.data.scanning import Tree, kinds_of
from depthsearch.errors import DataError

# More words, of which none alone makes a folder a split.
_WORDS = {
    **SPLIT_WORDS,
    "trainval": "train",
    "trn": "train",
    "tst": "test",
    "holdout": "test",
    "validate": "val",
}
# What names of splits have about them without saying more.
_ABOUT = (
    "set", "sets", "data", "dataset", "images", "image", "imgs", "img", "photos", "pictures", "pics", "split",
    "folder", "files", "samples", "part",
)  # fmt: skip
_GLUED = re.compile(f"({'|'.join(sorted(_WORDS, key=len, reverse=True))})({'|'.join(_ABOUT)})?")
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W_A-Za-z\d]+")
# Folders that hold parts or sides of a set, never a class of splits.
_SIDES = re.compile(
    r"(images?|imgs?|masks?|labels?|annotations?|gt|fold|part|set|batch)[\W_]*\d*", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Which folders are what.

    Attributes:
        classes: By split and the class's name the path of its folder.
        outer: Folders around these, which hold no image themselves.
        description: How it was read, where that is not plain.
    """

    classes: Mapping[str, Mapping[str, str]]
    outer: tuple[str, ...] = ("",)
    description: str = ""

    def check(self, tree: Tree) -> None:
        """Refuse images in no class, classes without images, and splits that disagree on the classes.

        Raises:
            DataError: Naming them.
        """
        for folder in self.outer:
            if tree.images_in(folder):
                raise _loose(tree, folder)
        names = self.classes["train"].keys()
        for split, by_class in self.classes.items():
            if others := by_class.keys() ^ names:
                raise _disagreement(tree, split, set(others))
        if not tree.images:
            raise _no_images(tree)
        filled = {around for file in tree.images for around in _around(file.path)}
        for by_class in self.classes.values():
            for path in by_class.values():
                if path not in filled:
                    raise _empty(tree, path, [other for other in by_class.values() if other in filled])
        if len(names) == 1:
            raise _one_class(tree, self)


def layout_of(tree: Tree) -> Layout:
    """Find out which folders of a tree are classes and which are splits.

    Raises:
        DataError: If they can be meant in two ways, or contradict each other.
    """
    top = tree.folders_in("")
    named = split_names(tree, "")
    others = [name for name in top if name not in named]
    trains = [name for name, split in named.items() if split == "train"]
    if not named or (others and not trains):
        return _within_classes(tree) or _flat(tree)
    if others:
        if len(named) == 1 and tree.images_in(trains[0]):
            return _flat(tree)  # a class of railway trains
        raise DataError(
            f"{tree.root} mixes split folders ({a_few(named)}) with others ({a_few(others)}). Move the "
            "others away, put all classes into the split folders, or rename a class called like a split."
        )
    if not trains:
        raise DataError(f"{tree.root} has {a_few(named)} but no train folder. Add train/<class>/<image>.")
    folders = {split: name for name, split in once_each(tree, named).items()}
    if tree.images_in(""):
        raise _loose(tree, "")
    within = {split: _unwrapped(tree, folders[split]) for split in SPLITS if split in folders}
    classes = {
        split: {name: f"{path}/{name}" for name in tree.folders_in(path)} for split, path in within.items()
    }
    for by_class in classes.values():
        _refuse_two_readings(tree, list(by_class.values()))
    return Layout(
        classes=classes,
        outer=tuple(within.values()),
        description="folders " + ", ".join(folders[split] for split in classes),
    )


def _flat(tree: Tree) -> Layout:
    """Take the folders for classes."""
    top = tree.folders_in("")
    _refuse_two_readings(tree, top)
    return Layout(classes={"train": {name: name for name in top}})


def _within_classes(tree: Tree) -> Layout | None:
    """Take the folders for classes that hold their splits; None where they hold none.

    Raises:
        DataError: If only some do, or not the same.
    """
    top = tree.folders_in("")
    inner = {name: split_names(tree, name) for name in top}
    holding = [
        name
        for name in top
        if "train" in inner[name].values() and len(inner[name]) == len(tree.folders_in(name))
    ]
    if len(top) < 2 or not any(len(inner[name]) > 1 for name in holding):
        return None
    first = inner[holding[0]]
    splits = ", ".join(sorted(first, key=lambda folder: SPLITS.index(first[folder])))
    shown = f"{holding[0]} holds the splits {splits}"
    for name in top:
        once_each(tree, inner[name], within=name)
        if name not in holding or set(inner[name].values()) != set(first.values()):
            raise DataError(
                f"{tree.root}: {shown}, {name} has {_held(tree, name)}. Give each class folder the same, or "
                "put the classes into split folders, DIR/train/<class>/<image>."
            )
        if tree.images_in(name):
            raise _loose(tree, name)
    if all(_SIDES.fullmatch(name) for name in top):
        raise _two_readings(tree, top, splits)
    classes: dict[str, dict[str, str]] = {}
    for split in SPLITS:
        if split in first.values():
            classes[split] = {
                name: f"{name}/{folder}" for name in top for folder, s in inner[name].items() if s == split
            }
    return Layout(classes=classes, description=f"{splits} in each class folder")


def _held(tree: Tree, folder: str) -> str:
    return a_few(tree.folders_in(folder)) or "none"


def split_names(tree: Tree, within: str) -> dict[str, str]:
    """Return the splits that folders in a folder are called like, by the folders' names.

    A word alone is enough. With more around it, it counts beside another split that has the same around it,
    where all folders are called so, and with nothing but words such as ``set`` where the folder holds no
    image itself.
    """
    names = tree.folders_in(within)
    parsed = {name: read for name in names if (read := _parsed(name))}
    groups: dict[str, set[str]] = defaultdict(set)
    for split, about in parsed.values():
        groups[about].add(split)
    splits = {split for split, _ in parsed.values()}
    if len(parsed) == len(names) and "train" in splits and len(splits) > 1:
        return {name: split for name, (split, _) in parsed.items()}
    found = {}
    for name, (split, about) in parsed.items():
        is_bare = not about and not tree.images_in(f"{within}/{name}" if within else name)
        if name.lower() in SPLIT_WORDS or is_bare or (len(groups[about]) > 1 and "train" in groups[about]):
            found[name] = split
    return found


def _parsed(name: str) -> tuple[str, str] | None:
    """Read a folder's name as a split and what else it says; None if it names no split, or several."""
    parts = [part.lower() for part in _PARTS.findall(name)]
    read = [_GLUED.fullmatch(part) for part in parts]
    splits = {_WORDS[match[1]] for match in read if match}
    if splits == {"train", "val"}:
        splits = {"train"}  # both in one
    about = [
        part
        for part, match in zip(parts, read, strict=True)
        if not match and part not in _ABOUT and not part.isdigit()
    ]
    return (splits.pop(), " ".join(about)) if len(splits) == 1 else None


def split_named(name: str) -> str | None:
    """Return the split that a name by itself means, such as ``val_images``; None if none."""
    read = _parsed(name)
    return read[0] if read and not read[1] else None


def once_each(tree: Tree, named: Mapping[str, str], within: str = "") -> Mapping[str, str]:
    """Refuse folders of which two are one split.

    Raises:
        DataError: If so.
    """
    seen: dict[str, str] = {}
    for name in sorted(named):
        earlier = seen.setdefault(named[name], name)
        if earlier != name:
            raise DataError(
                f"{tree.root / within} has both {earlier} and {name}, two names for one split. Keep one."
            )
    return named


def _unwrapped(tree: Tree, folder: str) -> str:
    """Go into a folder that holds nothing but another one of its name, as some archives have it."""
    names = tree.folders_in(folder)
    own = folder.rpartition("/")[2]
    if len(names) == 1 and not tree.images_in(folder) and names[0].lower() == own.lower():
        return _unwrapped(tree, f"{folder}/{names[0]}")
    return folder


def _refuse_two_readings(tree: Tree, folders: Sequence[str]) -> None:
    """Refuse folders that may be classes as well as what is in them, which all of them hold.

    Raises:
        DataError: If they hold most of all the same folders, or one folder each, and no images beside these.
    """
    inner = [set(tree.folders_in(folder)) for folder in folders]
    if len(folders) < 2 or not all(inner) or any(map(tree.images_in, folders)):
        return
    every, some = set.union(*inner), set.intersection(*inner)
    single = all(len(names) == 1 for names in inner)
    if single and all({path.rpartition("/")[2]} == names for path, names in zip(folders, inner, strict=True)):
        return  # each holds a folder of its own name, which says the same
    if single or 2 * len(some) >= len(every):
        raise _two_readings(tree, folders, a_few(every))


def _two_readings(tree: Tree, folders: Iterable[str], inner: str) -> DataError:
    outer = list(folders)
    names = a_few(path.rpartition("/")[2] for path in outer)
    return DataError(
        f"{tree.root}: what are the classes, {names} or the folders in them, {inner}? If {names}, move their "
        f"images straight into them; if {inner}, give the folder that holds the images, such as --data "
        f"{tree.root / outer[0]}, or a table (.csv) of images and labels."
    )


def _around(path: str) -> list[str]:
    """Return the folders around a path, without the root."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]


def _loose(tree: Tree, folder: str) -> DataError:
    """Return what to say of images that lie in no class folder."""
    loose = tree.images_in(folder)
    return DataError(
        f"{len(loose)} image(s) directly in {tree.root / folder}, in no class folder: {a_few(loose)}. "
        f"Move them into class folders, DIR/<class>/<image>.{_tables_there(tree)}"
    )


def _tables_there(tree: Tree) -> str:
    """Name the tables that lie in the folder, of which one may have the labels."""
    tables = [path for path in tree.unread if "/" not in path and path.lower().endswith((".csv", ".parquet"))]
    if not tables:
        return ""
    return f" If {a_few(tables)} has the labels, give that: --data {tree.root / tables[0]}."


def _no_images(tree: Tree) -> DataError:
    held = f", only {kinds_of(tree.unread)}" if tree.unread else ""
    hidden = f", only {len(tree.hidden)} hidden" if tree.hidden else ""
    return DataError(
        f"No images in {tree.root}{held or hidden}. Put them at DIR/<class>/<image>, as .jpg, .png, .tif or "
        "another format that Pillow reads."
    )


def _empty(tree: Tree, path: str, others: Sequence[str]) -> DataError:
    unread = [file for file in tree.unread if file.startswith(f"{path}/")]
    held = f" that Pillow reads, only {kinds_of(unread)}" if unread else ""
    step = "Add images or remove the folder."
    if len(others) == 1 and len(inner := tree.folders_in(others[0])) > 1 and not tree.images_in(others[0]):
        step += f" If {a_few(inner)} are the classes or splits, give --data {tree.root / others[0]}."
    return DataError(f"Class folder {tree.root / path} holds no image{held}. {step}")


def _one_class(tree: Tree, layout: Layout) -> DataError:
    ((name, path),) = layout.classes["train"].items()
    while len(tree.folders_in(path)) == 1 and not tree.images_in(path):
        path = f"{path}/{tree.folders_in(path)[0]}"
    step = "Give two or more class folders"
    inner = tree.folders_in(path)
    if inner and not tree.images_in(path):
        where = f"give --data {tree.root / path}"
        if layout.description:
            where = f"put them straight into {tree.root / layout.outer[0]}, and so with the other splits"
        step = f"If {a_few(inner)} are the classes or splits, {where}"
    return DataError(f"{tree.root} has one class only, {name!r}. {step}.{_tables_there(tree)}")


def _disagreement(tree: Tree, split: str, others: set[str]) -> DataError:
    if len(set(map(visible_form, others))) < len(others):
        # Names that look the same, of a Mac and of another system for one.
        others = {ascii(name) for name in others}
    return DataError(
        f"{tree.root}: train and {split} disagree on the classes, only one of them has {a_few(others)}. "
        "Give both the same class folders."
    )
