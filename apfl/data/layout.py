"""Which files of a folder are a data set: what is a split, a shard and a class, and what is litter.

Nothing is dropped without a word: what is left out is said, and what could be read in two ways is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from apfl.data.raw import neighbours
from apfl.errors import UserError

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"""The splits in the order in which they are pooled, and what people and hubs call them."""
LITTER = ("__macosx", "$recycle.bin", "system volume information", "lost+found", "@eadir", "#recycle", "__pycache__")
"""Folders that operating systems and archives leave behind."""
SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".pbm", ".pgm",
    ".ppm", ".pnm",
)  # fmt: skip
"""What pictures are called that can be read."""
OTHERS = (
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".svg", ".psd", ".tga", ".ico", ".eps", ".pdf", ".raw", ".dng",
    ".cr2", ".nef", ".arw", ".exr", ".hdr", ".dcm", ".npy", ".mat",
)  # fmt: skip
"""What pictures are called that cannot."""
UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".incomplete", ".tmp", ".aria2")
DEEPEST = 3
SHARD = re.compile(r"(?P<stem>.*?)(?:[-_.]?(?P<number>\d+)(?:-of-(?P<total>\d+)(?:-[0-9a-f]{6,})?)?)?")


@dataclass(frozen=True)
class Found:
    """Files in the order in which they are pooled, and a line for each thing that is left out."""

    files: tuple[Path, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Classes:
    """names: in label order; files: each image with its label, train first; left_out: a line for each thing that is;
    root: the folder that holds the classes or splits."""

    names: tuple[str, ...]
    files: tuple[tuple[Path, int], ...]
    left_out: tuple[str, ...] = ()
    root: Path = Path()


def split_of(name: str) -> str | None:
    """The split that the name of a file or folder speaks of.

    >>> split_of("cifar-Training-00000-of-00001"), split_of("val"), split_of("trainset"), split_of("cat")
    ('train', 'validation', 'train', None)
    """
    words = re.split(r"[^a-z]+", name.lower())
    named = (split for word in words for split, names in SPLITS.items() if word in names)
    return next(named, next((split for split in ("train", "test") if name.lower().startswith(split)), None))


def is_litter(path: Path) -> bool:
    """Is it hidden, or what an archive or an operating system leaves behind?"""
    return path.name.startswith(".") or path.name.lower() in LITTER


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder that are not litter, sorted by name; none if there is no such folder."""
    there = folder.iterdir() if folder.is_dir() else ()
    return sorted(child for child in there if child.is_dir() and not is_litter(child))


def parquet_files(name: str, folder: Path) -> Found:
    """The Parquet files of a data set in a folder, in its folder ``data``, or in those of its splits.

    A file belongs to the split that its name or its folder speaks of; without such names all of them are one. A
    `UserError` if a shard is missing, if there are two uploads, or if it is open which files are the data set.
    """
    found = [path for path in _walk(folder, DEEPEST) if path.suffix.lower() == ".parquet"]
    if part := [path for path in _walk(folder, DEEPEST) if re.search(r"\.parquet(\..+)?$", path.stem.lower())
                and path.suffix.lower() in UNFINISHED]:  # fmt: skip
        raise UserError(f"{part[0]}: is an unfinished download; get the file again, or remove it")
    places: dict[Path, list[Path]] = {}
    for path in found:
        in_split = path.parent != folder and split_of(path.parent.name) and not split_of(path.stem)
        places.setdefault(path.parent.parent if in_split else path.parent, []).append(path)
    if not places:
        raise UserError(f"data set {name}: {folder} has no train*.parquet or test*.parquet{neighbours(folder)}")
    with_splits = {place for place, paths in places.items() if any(_split_in(place, path) for path in paths)}
    chosen = [place for place in places if place in with_splits or not with_splits]
    if chosen[0] != folder and len(chosen) > 1:
        inside = ", ".join(str(place.relative_to(folder)) for place in chosen)
        raise UserError(f"data set {name}: {folder} holds several data sets ({inside}); give the folder of one")
    by_split: dict[str | None, list[Path]] = {}
    for path in places[chosen[0]]:
        by_split.setdefault(_split_in(chosen[0], path), []).append(path)
    unnamed = by_split.pop(None, [])
    if not by_split and len({_shard(path)["stem"] for path in unnamed}) > 1:
        raise UserError(
            f"data set {name}: {folder} has no train*.parquet or test*.parquet, but {unnamed[0].name},"
            f" {unnamed[1].name}; name the files after their splits"
        )
    by_split = by_split or {"train": unnamed}
    for split in SPLITS:
        _check_shards(split, by_split.get(split, ()))
    files = tuple(path for split in SPLITS for path in by_split.get(split, ()))
    others = [path for path in found if path not in files]
    return Found(files, (f"{_listed(others, folder)}, which belong to no split",) if others else ())


def image_classes(name: str, folder: Path) -> Classes:
    """The classes of a folder of images: a folder for each, perhaps inside of the folders of splits.

    A folder that holds images is a class, whatever it is called, but not where all of them are called after splits.
    Classes are sorted by name, or as whole numbers if all of their names are. Folders without an image are left out.
    """
    root = _unwrapped(folder)
    children = folders_in(root)
    splits = [child for child in children if split_of(child.name) and not _images(child) and folders_in(child)]
    named = [child for child in children if _split_word(child) and _images(child)]
    others = [child for child in children if child not in splits and child not in named]
    if named and (splits or len(named) > 1 or not others):
        raise UserError(
            f"data set {name}: {_names(named)} of {root} hold images and no folders of classes, but are called after"
            " splits; put the images into a folder for each class, or move these folders away"
        )
    if splits and (classes := [child for child in others if _images(child)]):
        raise UserError(
            f"data set {name}: {root} holds splits ({_names(splits)}) beside {_names(classes)}; move one of them away"
        )
    splits.sort(key=lambda child: list(SPLITS).index(str(split_of(child.name))))
    if twice := [one.name for one in splits if sum(split_of(one.name) == split_of(two.name) for two in splits) > 1]:
        raise UserError(f"data set {name}: {root} has one split twice ({', '.join(twice)}); remove one of them")
    parts = splits or [root]
    held = [{_class_name(child): _class_images(child) for child in folders_in(part)} for part in parts]
    for part, own in zip(parts, held, strict=True):
        if twice := [key for key, number in Counter(map(_class_name, folders_in(part))).items() if number > 1]:
            raise UserError(f"data set {name}: {part} has two folders called {twice[0]!r}; remove one of them")
        if strange := [key for key, files in own.items() if files and key not in held[0]]:
            raise UserError(
                f"data set {name}: {part} has the class {strange[0]!r}, which {parts[0]} has not; call the folders of"
                " a class alike in all splits"
            )
    found = sorted({key for own in held for key, files in own.items() if files})
    names = tuple(sorted(found, key=int) if all(key.isdecimal() for key in found) else found)
    files = tuple((path, label) for own in held for label, key in enumerate(names) for path in own.get(key, ()))
    if not files:
        raise UserError(f"data set {name}: {folder} has no images in folders of classes{neighbours(folder)}")
    empty = sorted({key for own in held for key in own} - set(names))
    return Classes(names, files, (f"{', '.join(empty)} of {root}, without any image",) if empty else (), root)


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """The files below a folder that are not litter, its own first, sorted by name."""
    if folder.is_dir():
        # A folder that is called a Parquet file is passed on as one, for its reader to refuse.
        own = (path for path in folder.iterdir() if not path.is_dir() or path.suffix.lower() == ".parquet")
        yield from sorted(path for path in own if not is_litter(path))
        for child in folders_in(folder) if depth > 1 else ():
            yield from _walk(child, depth - 1)


def _split_in(place: Path, path: Path) -> str | None:
    """The split of a file in ``place``, or in a folder of a split there."""
    return split_of(path.stem) or (split_of(path.parent.name) if path.parent != place else None)


def _shard(path: Path) -> re.Match[str]:
    match = SHARD.fullmatch(path.stem)
    assert match is not None  # its parts are all optional
    return match


def _check_shards(split: str | None, paths: Sequence[Path]) -> None:
    """A `UserError` unless the files of a split are all of one upload, each once.

    They may say how many there are (train-00000-of-00005), and what the hub adds to that; those that are only numbered
    have no gap.
    """
    by_stem: dict[str, list[tuple[Path, re.Match[str]]]] = {}
    for path in paths:
        by_stem.setdefault(f"{path.parent}/{_shard(path)['stem']}", []).append((path, _shard(path)))
    for group in by_stem.values():
        totals = {shard["total"]: path for path, shard in group}
        if len(totals) > 1:
            one, two = (path.name for path in list(totals.values())[:2])
            raise UserError(f"{group[0][0].parent}: {one} and {two} are of two uploads of {split}; keep one of them")
        seen: dict[int, Path] = {}
        for path, shard in group:
            if (number := int(shard["number"] or -1)) in seen and shard["total"]:
                first = seen[number].name
                raise UserError(f"{path.parent}: {first} and {path.name} are of two uploads of {split}; keep one")
            seen[number] = path
        _check_complete(group, sorted(seen))


def _check_complete(group: Sequence[tuple[Path, re.Match[str]]], numbers: Sequence[int]) -> None:
    path, shard = group[0]
    if shard["total"]:
        total = int(shard["total"])
        if numbers not in (list(range(total)), list(range(1, total + 1))):
            raise UserError(
                f"{path}: is one of {total} files, but not all of them are there ({len(numbers)} of {total} are); get"
                " the others"
            )
    elif (shard["number"] or "").startswith("0") and len(shard["number"]) > 1:
        wanted = range(min(numbers[0], 1), numbers[-1] + 1)
        if absent := sorted(set(wanted) - set(numbers)):
            raise UserError(f"{path.parent}: number {absent[0]} of the files like {path.name} is missing; get it")


def _unwrapped(folder: Path) -> Path:
    """The folder that holds the classes or splits: an archive may have put one folder around them."""
    children = folders_in(folder)
    while len(children) == 1 and not split_of(children[0].name) and not _images(children[0]):
        if not (inner := folders_in(children[0])):
            break
        folder, children = children[0], inner
    return folder


def _images(folder: Path) -> list[Path]:
    """The files of a folder that are called after a picture, sorted by name."""
    there = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES + OTHERS and not is_litter(path))
    return sorted(path for path in there if path.is_file())


def _class_images(folder: Path) -> list[Path]:
    """The images of a class. A `UserError` if there are more below, or some that cannot be read."""
    images = _images(folder)
    if others := [path for path in images if path.suffix.lower() not in SUFFIXES]:
        raise UserError(f"{others[0]}: pictures of this kind are not read; save them as PNG or JPEG")
    if below := [path for path in _walk(folder, DEEPEST) if path.parent != folder and path.suffix.lower() in SUFFIXES]:
        raise UserError(f"{below[0]}: lies below the folder of a class, {folder.name}; move the images into it")
    return images


def _class_name(folder: Path) -> str:
    """What a folder is called, in the form in which the same letters are the same characters on every system."""
    return unicodedata.normalize("NFC", folder.name)


def _split_word(folder: Path) -> bool:
    return any(folder.name.lower() in names for names in SPLITS.values())


def _names(folders: Iterable[Path]) -> str:
    return ", ".join(folder.name for folder in folders)


def _listed(paths: Sequence[Path], folder: Path) -> str:
    shown = ", ".join(path.relative_to(folder).as_posix() for path in paths[:5])
    return shown + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
