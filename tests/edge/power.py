"""A model of a disk that loses power: what a process wrote, from its system calls, and what may be left of it.

Only what was synced is certain. Of a file that was not synced since, any prefix of its writes may be there, the last
one torn, or its length with zeros; of a folder that was not synced since, each change of a name may be there or not.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "openat,creat,write,pwrite64,writev,pwritev,rename,renameat,renameat2,fsync,fdatasync,unlink,unlinkat,mkdir,mkdirat,"
    "rmdir,link,linkat,symlink,symlinkat,ftruncate,truncate,sendfile,copy_file_range,lseek,fallocate"
)
_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)")
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"|<((?:\\x[0-9a-f]{2})+)>')
VARIANTS = ("nothing more", "names only", "zeros", "everything", *(f"some, {n}" for n in range(4)))


@dataclass(frozen=True)
class Call:
    """A system call that ended well: its name, its paths and bytes in order, and the rest as text."""

    name: str
    texts: tuple[bytes, ...]  # strings, and the paths of descriptors
    arguments: str
    result: int


def read_trace(trace: Path) -> list[Call]:
    """What `strace -f -y -xx` wrote, in the order in which the calls ended."""
    begun: dict[str, str] = {}
    calls = []
    for line in trace.read_text().splitlines():
        if line.endswith("<unfinished ...>"):
            begun[line.split()[0]] = line.removesuffix("<unfinished ...>")
            continue
        if resumed := _RESUMED.match(line):
            line = begun.pop(resumed[1]) + resumed[2]
        if (found := _LINE.match(line)) and int(found[4]) >= 0:
            texts = tuple(bytes.fromhex((a or b).replace("\\x", "")) for a, b in _TEXT.findall(found[3]))
            calls.append(Call(found[2], texts, _TEXT.sub("_", found[3]), int(found[4])))
    return calls


@dataclass(eq=False)
class Inode:
    """A file, a folder or a link."""

    names: "dict[str, Inode] | None" = None  # of a folder, as the process sees it
    certain: "dict[str, Inode]" = field(default_factory=dict)  # of a folder, what is on disk
    data: bytes = b""
    link: str = ""
    written: list[bytes] = field(
        default_factory=lambda: [b""]
    )  # of a file: what is on disk, and after each write since


@dataclass
class Change:
    """One change of names that happens whole or not at all: (folder, name) -> what it names then."""

    names: "list[tuple[Inode, str, Inode | None]]"


class Disk:
    """The state folder, as it is and as it would be after a power cut."""

    def __init__(self, root: Path) -> None:
        self.root_path = str(root)
        self.root = Inode({})
        self.pending: list[Change] = []
        self._places: dict[tuple[str, bytes], int] = {}  # descriptor -> offset

    def apply(self, call: Call) -> bool:
        """Take one call in; False when it changes nothing here."""
        paths = [text.decode(errors="replace") for text in call.texts]
        if call.name == "openat":
            return self._open(call, self._joined(paths))
        if call.name == "lseek":
            self._places[self._descriptor(call)] = call.result
            return False
        if call.name in ("write", "pwrite64", "sendfile"):
            return self._write(call, paths)
        if call.name in ("fsync", "fdatasync"):
            inode = self.find(paths[0])
            return inode is not None and self._sync(inode)
        if call.name in ("mkdir", "rmdir", "unlink", "unlinkat", "rename", "symlink"):
            return self._name(call.name, paths)
        if any(path.startswith(self.root_path) for path in paths):
            raise AssertionError(f"the model does not know {call}")
        return False

    def find(self, path: str) -> Inode | None:
        """What a path names; None outside the folder."""
        if path != self.root_path and not path.startswith(f"{self.root_path}/"):
            return None
        inode: Inode | None = self.root
        for part in path[len(self.root_path) :].strip("/").split("/"):
            if part:
                inode = inode.names.get(part) if inode and inode.names is not None else None
        return inode

    def tree(self) -> dict[str, bytes | str | None]:
        """Path below the folder -> bytes of a file, target of a link, None for a folder; as the process sees it."""
        return dict(_walk(self.root, lambda folder: folder.names or {}, lambda file: file.data))

    def cut(self, variant: str, chance: random.Random) -> dict[str, bytes | str | None]:
        """What may be there after a power cut now."""
        certain: dict[int, dict[str, Inode]] = {}

        def names(folder: Inode) -> dict[str, Inode]:
            return certain.setdefault(id(folder), dict(folder.certain))

        for change in self.pending:
            if variant != "nothing more" and (not variant.startswith("some") or chance.random() < 0.6):
                for folder, name, inode in change.names:
                    names(folder).pop(name, None)
                    if inode is not None:
                        names(folder)[name] = inode

        def content(file: Inode) -> bytes:
            if variant in ("nothing more", "names only"):
                return file.written[0]
            if variant == "zeros":
                return file.data if len(file.written) == 1 else bytes(len(file.data))
            if variant == "everything" or len(file.written) == 1:
                return file.data
            last = chance.randrange(1, len(file.written))
            data = file.written[last]
            return data[: chance.randint(min(len(data), len(file.written[last - 1])), len(data))]

        return dict(_walk(self.root, names, content))

    def is_certain(self, inode: Inode) -> bool:
        """Whether all below it is on disk."""
        if inode.names is None:
            return len(inode.written) == 1
        touched = any(folder is inode for change in self.pending for folder, _, _ in change.names)
        return not touched and all(self.is_certain(below) for below in inode.names.values())

    def _joined(self, paths: list[str]) -> str:
        return paths[1] if len(paths) > 1 and paths[1].startswith("/") else "/".join(paths[:2])

    def _descriptor(self, call: Call) -> tuple[str, bytes]:
        return call.arguments.split("_")[0], call.texts[0]

    def _open(self, call: Call, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        parent, inode = self.find(folder), self.find(path)
        if "O_WRONLY" not in call.arguments and "O_RDWR" not in call.arguments:
            return False
        self._places[(str(call.result), path.encode())] = 0
        if inode is None and parent is not None and "O_CREAT" in call.arguments:
            self._change((parent, name, Inode()))
            return True
        if inode is not None and "O_TRUNC" in call.arguments and inode.data:
            inode.data = b""
            inode.written.append(b"")
            return True
        if inode is not None and "O_APPEND" in call.arguments:
            self._places[(str(call.result), path.encode())] = len(inode.data)
        return False

    def _write(self, call: Call, paths: list[str]) -> bool:
        inode = self.find(paths[0])
        if inode is None:
            return False
        key = self._descriptor(call)
        at = self._places.get(key, 0)
        data = call.texts[1]
        if call.name == "sendfile":
            source = self.find(paths[1])
            assert source is not None, f"copied from outside: {paths}"
            data = source.data[at:]
        if call.name == "pwrite64":
            at = int(call.arguments.rsplit(",", 1)[1])
        data = data[: call.result]
        if not data:
            return False
        self._places[key] = at + len(data)
        inode.data = inode.data[:at].ljust(at, b"\0") + data + inode.data[at + len(data) :]
        inode.written.append(inode.data)
        return True

    def _name(self, call: str, paths: list[str]) -> bool:
        if call == "unlinkat":
            paths = [self._joined(paths)]
        target = paths[-1]
        folder, _, name = target.rpartition("/")
        parent = self.find(folder)
        if parent is None:
            return False
        if call == "mkdir":
            self._change((parent, name, Inode({})))
        elif call == "symlink":
            self._change((parent, name, Inode(link=paths[0])))
        elif call == "rename":
            source, _, before = paths[0].rpartition("/")
            came_from, inode = self.find(source), self.find(paths[0])
            assert came_from is not None
            assert inode is not None, f"renamed from outside: {paths}"
            self._change((came_from, before, None), (parent, name, inode))
        else:
            self._change((parent, name, None))
        return True

    def _change(self, *names: "tuple[Inode, str, Inode | None]") -> None:
        for folder, name, inode in names:
            assert folder.names is not None
            folder.names.pop(name, None)
            if inode is not None:
                folder.names[name] = inode
        self.pending.append(Change(list(names)))

    def _sync(self, inode: Inode) -> bool:
        if inode.names is None:
            inode.written = [inode.data]
            return True
        certain = [change for change in self.pending if any(folder is inode for folder, _, _ in change.names)]
        for change in certain:
            for folder, name, named in change.names:
                folder.certain.pop(name, None)
                if named is not None:
                    folder.certain[name] = named
        # An older change of a name that a certain one changed again cannot come back.
        settled = {(id(folder), name) for change in certain for folder, name, _ in change.names}
        left = [change for change in self.pending if change not in certain]
        for change in left:
            change.names = [one for one in change.names if (id(one[0]), one[1]) not in settled]
        self.pending = [change for change in left if change.names]
        return True


def _walk(folder: Inode, names, content, prefix: str = "") -> "Iterator[tuple[str, bytes | str | None]]":  # type: ignore[no-untyped-def]
    for name, inode in names(folder).items():
        path = f"{prefix}{name}"
        if inode.names is not None:
            yield path, None
            yield from _walk(inode, names, content, f"{path}/")
        else:
            yield path, inode.link or content(inode)


def on_disk(root: Path) -> dict[str, bytes | str | None]:
    """The same of a real folder."""
    found: dict[str, bytes | str | None] = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        found[name] = str(path.readlink()) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
    return found


def write_out(tree: dict[str, bytes | str | None], root: Path) -> None:
    """Make a folder of it."""
    root.mkdir()
    for name, value in tree.items():
        path = root / name
        if value is None:
            path.mkdir()
        elif isinstance(value, str):
            path.symlink_to(value)
        else:
            path.write_bytes(value)
