"""How a folder's folders are meant: as classes, or as splits that hold classes, or the other way round.

Three layouts: ``DIR/<class>/...``, ``DIR/<split>/<class>/...`` and ``DIR/<class>/<split>/...``. Splits are
called as `listing.SPLIT_WORDS` says, alone or with more around it: ``seg_train`` and ``seg_test``,
``training_set`` and ``test_set``. What can be meant in two ways is refused, with both.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from depthsearch.data.classnames import visible_form
from depthsearch.data.listing import SPLIT_WORDS, SPLITS
from depthsearch.data.sources.scanning import Tree, folders_around, kinds_of
from depthsearch.errors import DataError
from depthsearch.text import a_few

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
        notes: What the user should know of it, a line each.
    """

    classes: Mapping[str, Mapping[str, str]]
    outer: tuple[str, ...] = ("",)
    description: str = ""
    notes: tuple[str, ...] = ()

    @property
    def class_folders(self) -> set[str]:
        """The paths of all class folders."""
        return {path for by_class in self.classes.values() for path in by_class.values()}

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
        filled = {around for path in tree.images for around in folders_around(path)}
        for by_class in self.classes.values():
            for path in by_class.values():
                if path not in filled:
                    raise _empty(tree, path, [other for other in by_class.values() if other in filled])
        if len(names) == 1:
            raise _one_class(tree, self)
        _refuse_splits_within(tree, self.class_folders)


def layout_of(tree: Tree) -> Layout:
    """Find out which folders of a tree are classes and which are splits.

    Raises:
        DataError: If they can be meant in two ways, or contradict each other.
    """
    named = split_names(tree, "")
    others = [name for name in tree.folders_in("") if name not in named]
    trains = [name for name, split in named.items() if split == "train"]
    if not named or others:
        if within_classes := _within_classes(tree):
            return within_classes
        _refuse_classes_in_a_split(tree, named, others)
        if not trains or (len(named) == 1 and tree.images_in(trains[0])):
            return _flat(tree)  # also with a class of railway trains
    aside = tuple(name for name in others if tree.is_of_no_images(name))
    if others := [name for name in others if name not in aside]:
        raise DataError(
            f"{tree.root} mixes split folders ({a_few(named)}) with others ({a_few(others)}). Move the "
            "others away, put all classes into the split folders, or rename a class called like a split."
        )
    if not trains:
        raise DataError(f"{tree.root} has {a_few(named)} but no train folder. Add train/<class>/<image>.")
    folders = folder_of_each(tree, named)
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
        notes=_left_aside(aside),
    )


def _left_aside(folders: Sequence[str]) -> tuple[str, ...]:
    return (f"Folders without images, left out: {a_few(folders)}.",) if folders else ()


def _flat(tree: Tree) -> Layout:
    """Read the folders as classes."""
    top = tree.folders_in("")
    _refuse_two_readings(tree, top)
    called = {name: SPLIT_WORDS[name.lower()] for name in top if name.lower() in SPLIT_WORDS}
    notes: tuple[str, ...] = ()
    if set(called.values()) - {"train"}:
        notes = (
            f"Classes are called like splits: {a_few(called)}. If they are splits, put the other folders "
            "into one called train, and their own images into class folders, DIR/test/<class>/<image>.",
        )
    return Layout(classes={"train": {name: name for name in top}}, notes=notes)


def _refuse_classes_in_a_split(tree: Tree, named: Mapping[str, str], others: Sequence[str]) -> None:
    """Refuse a split without a train folder, beside class folders and with class folders in it."""
    for name, split in named.items():
        inner = tree.filled_folders_in(name)
        if split != "train" and inner and _is_around(tree, name) and "train" not in named.values():
            raise DataError(
                f"{tree.root}: is {name} a split or a class? It holds folders ({a_few(inner)}) and stands "
                f"beside others ({a_few(others)}). If a split, put the others into a folder called train; if "
                "a class, move its images straight into it."
            )


def _within_classes(tree: Tree) -> Layout | None:
    """Read the folders as classes that hold their splits; None where they hold none.

    Raises:
        DataError: If only some do, or not the same, or these hold class folders in their turn.
    """
    every = tree.folders_in("")
    aside = tuple(name for name in every if tree.is_of_no_images(name))
    top = [name for name in every if name not in aside]
    inner = {name: split_names(tree, name) for name in top}
    holding = [
        name
        for name in top
        if "train" in inner[name].values() and len(inner[name]) == len(tree.folders_in(name))
    ]
    if len(top) < 2 or not any(len(inner[name]) > 1 for name in holding):
        return None
    if len(holding) < len(top) and any(split_names(tree, "").values()):
        return None  # what is called like a split at the top comes first
    named = {name: folder_of_each(tree, inner[name], within=name) for name in top}
    first = [split for split in SPLITS if split in named[holding[0]]]
    splits = ", ".join(named[holding[0]][split] for split in first)
    for name in top:
        if name not in holding or named[name].keys() != set(first):
            held = a_few(tree.folders_in(name)) or "none"
            raise DataError(
                f"{tree.root}: {holding[0]} holds the splits {splits}, {name} has {held}. "
                "Give each class folder the same, or put the classes into split folders, "
                "DIR/train/<class>/<image>."
            )
        if tree.images_in(name):
            raise _loose(tree, name)
    if all(_SIDES.fullmatch(name) for name in top):
        raise _two_readings(tree, top, splits)
    classes = {split: {name: f"{name}/{named[name][split]}" for name in top} for split in first}
    _refuse_classes_within(tree, classes)
    return Layout(classes=classes, description=f"{splits} in each class folder", notes=_left_aside(aside))


def _refuse_classes_within(tree: Tree, classes: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse splits in the folders at the top that hold folders, which may be the classes."""
    found: set[str] = set()
    may_be = False
    for name in classes["train"]:
        paths = [by_class[name] for by_class in classes.values()]
        inner = [{each for each in _parted(tree, path) if each.lower() != name.lower()} for path in paths]
        found |= set.union(*inner)
        # Classes stand in several splits; what each split has of its own are parts of it, as of one day.
        apart = all(inner) and sum(map(len, inner)) == len(set.union(*inner))
        may_be = may_be or (any(inner) and not apart)
    if may_be and len(found) > 1:
        raise _two_readings(tree, classes["train"], a_few(found), deeper=True)


def _refuse_splits_within(tree: Tree, classes: set[str]) -> None:
    """Refuse splits somewhere in the class folders, which would be mixed."""
    for path in sorted(path for path, names in tree.folders.items() if len(names) > 1):
        folder = next((around for around in folders_around(f"{path}/") if around in classes), None)
        if folder is None or len(set(split_names(tree, path).values())) < 2:
            continue
        filled = tree.filled_folders_in(path)
        named = {name: split for name, split in split_names(tree, path).items() if name in filled}
        if len(set(named.values())) > 1:
            raise DataError(
                f"{tree.root / path} holds the splits {a_few(named)}, and lies in the class folder {folder}: "
                "they would be mixed. Put the classes straight into split folders, "
                "DIR/train/<class>/<image>, or the splits straight into class folders, "
                "DIR/<class>/train/<image>; if these are no splits, rename them."
            )


def _parted(tree: Tree, folder: str) -> tuple[str, ...]:
    """Return the folders that a folder's images lie in, or those in the only one; none if it has its own."""
    inner = tree.filled_folders_in(folder)
    if not _is_around(tree, folder):
        return ()
    return _parted(tree, f"{folder}/{inner[0]}") or inner if len(inner) == 1 else inner


def _is_around(tree: Tree, *folders: str) -> bool:
    """Return whether folders hold their images in folders, but for a few stray ones."""
    loose = sum(len(tree.images_in(folder)) for folder in folders)
    return 5 * loose <= sum(map(tree.n_images_below, folders))


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


def splits_in_paths(paths: Iterable[str]) -> list[str]:
    """Return the folders in paths that are called like train and another split, alike otherwise; or none."""
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for name in {
        part for folder in {path.rpartition("/")[0] for path in paths} for part in folder.split("/")
    }:
        if read := _parsed(name):
            groups[read[1]][name] = read[0]
    found = (names for names in groups.values() if "train" in names.values() and len(set(names.values())) > 1)
    return sorted({name for names in found for name in names})


def folder_of_each(tree: Tree, named: Mapping[str, str], within: str = "") -> dict[str, str]:
    """Return the name of the folder of each split, from the splits by such names.

    Raises:
        DataError: If two folders are one split.
    """
    folders: dict[str, str] = {}
    for name in sorted(named):
        earlier = folders.setdefault(named[name], name)
        if earlier != name:
            raise DataError(
                f"{tree.root / within} has both {earlier} and {name}, two names for one split. If they are "
                "parts of one, put their images together in one; if they belong to several sets, move the "
                "folders of each set into a folder of its own, and give one of these."
            )
    return folders


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
    if len(folders) < 2 or not _is_around(tree, *filter(tree.folders_in, folders)):
        return
    if not all(inner):
        _refuse_shared(tree, folders)
        return
    every = set.union(*inner)
    single = all(len(names) == 1 for names in inner)
    if single and all({path.rpartition("/")[2]} == names for path, names in zip(folders, inner, strict=True)):
        return  # each holds a folder of its own name, which says the same
    if single or 2 * len(_shared(inner)) >= len(every):
        raise _two_readings(tree, folders, a_few(every))


def _refuse_shared(tree: Tree, folders: Sequence[str]) -> None:
    """Refuse folders of which several hold the same folders, while others hold images alone.

    Raises:
        DataError: If two or more of them hold two or more in common, most of all that they hold.
    """
    inner = [names for folder in folders if len(names := set(tree.filled_folders_in(folder))) > 1]
    if len(inner) > 1 and 2 * len(_shared(inner)) >= len(set.union(*inner)):
        raise _two_readings(tree, folders, a_few(set.union(*inner)))


def _shared(inner: Sequence[set[str]]) -> list[str]:
    """Return the names that stand in more than half of some sets."""
    counts = Counter(name for names in inner for name in names)
    return [name for name, n in counts.items() if 2 * n > len(inner)]


def _two_readings(tree: Tree, folders: Iterable[str], inner: str, *, deeper: bool = False) -> DataError:
    outer = sorted(folders, key=lambda path: not tree.folders_in(path))
    names = a_few(path.rpartition("/")[2] for path in outer)
    into = "their split folders" if deeper else "them"
    return DataError(
        f"{tree.root}: what are the classes, {names} or the folders in {into}, {inner}? If {names}, move "
        f"their images straight into {into}; if {inner}, give the folder that holds the images, such as "
        f"--data {tree.root / outer[0]}, or a table (.csv) of images and labels."
    )


def _loose(tree: Tree, folder: str) -> DataError:
    """Return what to say of images that lie in no class folder."""
    loose = tree.images_in(folder)
    split = split_names(tree, "").get(folder.partition("/")[0], "train")
    step = "Move them into class folders, DIR/<class>/<image>."
    if split != "train" and folder and not tree.folders_in(folder):
        step = (
            f"If they have no labels, move {folder} out of {tree.root}; if they have, move them into class "
        )
        step += f"folders, {folder}/<class>/<image>."
    return DataError(
        f"{len(loose)} image(s) directly in {tree.root / folder}, in no class folder: {a_few(loose)}. "
        f"{step}{_tables_there(tree)}"
    )


def _tables_there(tree: Tree) -> str:
    """Name the tables that lie in the folder, of which one may have the labels."""
    tables = [path for path in tree.unread if "/" not in path and path.lower().endswith((".csv", ".parquet"))]
    if not tables:
        return ""
    return f" If {a_few(tables)} has the labels, give that: --data {tree.root / tables[0]}."


def _no_images(tree: Tree) -> DataError:
    others = f", only {kinds_of(tree.unread)}" if tree.unread else ""
    hidden = f", only {len(tree.hidden)} hidden" if tree.hidden else ""
    return DataError(
        f"No images in {tree.root}{others or hidden}. Put them at DIR/<class>/<image>, as .jpg, .png, .tif "
        "or another format that Pillow reads."
    )


def _empty(tree: Tree, path: str, others: Sequence[str]) -> DataError:
    unread = [file for file in tree.unread if file.startswith(f"{path}/")]
    unread_kinds = f" that Pillow reads, only {kinds_of(unread)}" if unread else ""
    step = "Add images or remove the folder."
    if len(others) == 1 and len(inner := tree.folders_in(others[0])) > 1 and not tree.images_in(others[0]):
        step += f" If {a_few(inner)} are the classes or splits, give --data {tree.root / others[0]}."
    return DataError(f"Class folder {tree.root / path} holds no image{unread_kinds}. {step}")


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
