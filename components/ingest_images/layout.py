"""What the folders above an image say: its class, and sometimes its split."""

from collections import Counter

UNLABELED = "unlabeled"  # the sub-folder of images without a class
SPLIT_FOLDERS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation"}
SPLIT_FOLDERS |= {"test": "test"}


class Layout:
    """Told each path, it knows at the end what the folders mean: `class/image`, or `split/class/image`.

    One top folder around everything is no class (`tar cf photos.tar photos/`); `strip_top` says whether to look for it.
    """

    def __init__(self, *, strip_top: bool) -> None:
        self._strip_top = strip_top
        self._heads: Counter[tuple[str, ...]] = Counter()  # first two folders of the path; () of one at the root

    def see(self, path: str) -> None:
        """One path below the root, with forward slashes."""
        self._heads[tuple(path.split("/")[:-1][:3])] += 1

    def place(self, path: str) -> tuple[str | None, str | None]:
        """(label, split) of a path, once all were seen."""
        folders = path.split("/")[:-1]
        if self._has_top():
            folders = folders[1:]
        split = None
        if self._has_splits():
            split, folders = SPLIT_FOLDERS[folders[0].lower()], folders[1:]
        label = folders[0] if folders else UNLABELED
        return (None if label == UNLABELED else label), split

    def notes(self) -> list[str]:
        """What the user should know."""
        if not self._has_splits():
            return []
        names = ", ".join(sorted({head[0] for head in self._below_top()}))
        return [f"The top folders ({names}) are taken as the splits, and the folders below them as the classes."]

    def _has_top(self) -> bool:
        return self._strip_top and len({head[:1] for head in self._heads}) == 1 and () not in self._heads

    def _below_top(self) -> list[tuple[str, ...]]:
        return [head[1:] if self._has_top() else head for head in self._heads]

    def _has_splits(self) -> bool:
        heads = self._below_top()
        names = {head[0].lower() for head in heads if len(head) >= 2}
        return (
            all(len(head) >= 2 for head in heads)
            and "train" in names
            and 1 < len(names) <= len(names & set(SPLIT_FOLDERS))
        )


def is_hidden(parts: tuple[str, ...]) -> bool:
    """Whether a path is what systems put beside images: `.DS_Store`, `.git/`, `__MACOSX/`."""
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def printable(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8 are shown as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
