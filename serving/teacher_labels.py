"""Which of the teacher's classes make each of the student's: by a map, by name, or by position."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from edgedistill.errors import TeacherError

HEADER = ("teacher", "class")


@dataclass(frozen=True)
class Chosen:
    """The student's classes, and the teacher's classes in each."""

    labels: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...] | None  # None: the teacher's classes as they are
    notes: tuple[str, ...] = ()


def choose(*, classes: Sequence[str], count: int, names: Sequence[str], text: str | None) -> Chosen:
    """The classes that the served teacher gives.

    Args:
        classes: of the data set; empty when no image has a label.
        count: number of the teacher's classes.
        names: of the teacher's classes; empty when unknown.
        text: a map (see `read_map`), or None.

    Raises:
        TeacherError: the map or the teacher lacks a class of the data set, or the map names an unknown class.
    """
    names = names if len(names) == count and len(set(names)) == count else ()
    if text is not None:
        return _by_map(classes, read_map(text, count=count, names=names), count)
    if not classes:
        labels = tuple(names) or tuple(str(i) for i in range(count))
        source = "their names are the teacher's" if names else "they are named by the teacher's index"
        return Chosen(labels, None, (f"no image has a label: the {count} classes are the teacher's, {source}",))
    if set(classes) <= set(names):
        groups = tuple((list(names).index(name),) for name in classes)
        if groups == tuple((i,) for i in range(count)):
            return Chosen(tuple(classes), None)
        note = f"{len(classes)} of the teacher's {count} classes are used, found by their names"
        return Chosen(tuple(classes), groups, (note,))
    if len(classes) != count:
        raise TeacherError(
            f"the teacher has {count} classes, the data set has {len(classes)}; give a teacher of the same classes, or "
            "say which of its classes are which with --teacher-labels map.csv (columns teacher,class)"
        )
    if not names:
        return Chosen(tuple(classes), None)
    note = f"the teacher's classes are taken in the data set's order: {names[0]!r} is {classes[0]!r}, and so on"
    return Chosen(tuple(classes), None, (note,))


def read_map(text: str, *, count: int, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Class -> teacher classes, from CSV of two columns: teacher (an index from 0, or a name), class.

    The first line may be the header `teacher,class`. A line whose class is empty drops that teacher class, as does
    leaving the line out.

    Raises:
        TeacherError: a line that is not so, an unknown or repeated teacher class, or no line at all.
    """
    known = {name: index for index, name in enumerate(names)}
    found: dict[str, list[int]] = {}
    seen: dict[int, int] = {}
    for number, cells in enumerate(csv.reader(io.StringIO(text.lstrip("\ufeff"))), 1):
        cells = [cell.strip() for cell in cells]
        if not any(cells) or (number == 1 and tuple(cell.lower() for cell in cells) == HEADER):
            continue
        if len(cells) != 2 or not cells[0]:
            raise TeacherError(f"line {number} of the teacher's map is {','.join(cells)!r}; expected teacher,class")
        index = known.get(cells[0], int(cells[0]) if cells[0].isdecimal() else -1)
        if not 0 <= index < count:
            hint = f"an index below {count}" + (f" or a name such as {names[0]!r}" if names else "; it tells no names")
            raise TeacherError(
                f"line {number} of the teacher's map: the teacher has no class {cells[0]!r}, only {hint}"
            )
        if index in seen:
            raise TeacherError(f"line {number} of the teacher's map: class {cells[0]!r} is on line {seen[index]} too")
        seen[index] = number
        if cells[1]:
            found.setdefault(cells[1], []).append(index)
    if not found:
        raise TeacherError("the teacher's map has no line; write teacher,class on each, such as 281,cat")
    return {name: tuple(sorted(group)) for name, group in found.items()}


def _by_map(classes: Sequence[str], found: dict[str, tuple[int, ...]], count: int) -> Chosen:
    labels = tuple(classes) or tuple(sorted(found))
    absent = [name for name in labels if name not in found]
    if absent:
        raise TeacherError(
            f"no teacher class maps onto {absent[0]!r} of the data set; add a line such as 0,{absent[0]} to the map"
        )
    if strange := sorted(set(found) - set(labels)):
        raise TeacherError(
            f"the teacher's map names the class {strange[0]!r}, which the data set has not ({', '.join(labels[:10])}); "
            "leave its lines out or correct the name"
        )
    if len(labels) < 2:
        raise TeacherError(f"the teacher's map makes one class, {labels[0]!r}; a classifier needs two or more")
    used = sum(len(found[name]) for name in labels)
    notes = [f"{used} of the teacher's {count} classes are used, merged into {len(labels)} by the map"]
    if not classes:
        notes.append("no image has a label: the classes are the map's")
    return Chosen(labels, tuple(found[name] for name in labels), tuple(notes))
