"""Which of the teacher's classes make the student's."""

import pytest

from edgedistill.errors import TeacherError
from serving.teacher_labels import Chosen, choose, read_map

NAMES = ("tabby", "siamese", "beagle", "car")


def test_a_map_picks_and_merges() -> None:
    text = "\ufeffteacher,class\n0,cat\nsiamese, cat\n\n2,dog\n3,\n"
    assert read_map(text, count=4, names=NAMES) == {"cat": (0, 1), "dog": (2,)}
    chosen = choose(classes=("cat", "dog"), count=4, names=NAMES, text=text)
    assert chosen.labels == ("cat", "dog")
    assert chosen.groups == ((0, 1), (2,))
    assert "3 of the teacher's 4 classes" in chosen.notes[0]


def test_a_name_with_a_comma_is_quoted_and_a_number_may_be_a_name() -> None:
    assert read_map('"tabby, tabby cat",cat\n7,dog', count=2, names=("7", "tabby, tabby cat")) == {
        "cat": (1,),
        "dog": (0,),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no line"),
        ("0;cat", "expected teacher,class"),
        ("0,cat,felis", "expected teacher,class"),
        ("4,cat", "no class '4', only an index below 4 or a name such as 'tabby'"),
        ("-1,cat", "no class '-1'"),
        ("lion,cat", "no class 'lion'"),
        ("0,cat\ntabby,dog", "line 2 .* is on line 1 too"),
        ("0,cat", "no teacher class maps onto 'dog'"),
        ("0,cat\n1,dog\n2,bird", "the class 'bird', which the data set has not"),
    ],
)
def test_a_wrong_map_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(TeacherError, match=said):
        choose(classes=("cat", "dog"), count=4, names=NAMES, text=text)


def test_names_are_matched_whatever_their_order() -> None:
    chosen = choose(classes=("beagle", "car", "siamese", "tabby"), count=4, names=NAMES, text=None)
    assert chosen.groups == ((2,), (3,), (1,), (0,))
    assert choose(classes=("beagle", "car"), count=4, names=NAMES, text=None).groups == ((2,), (3,))
    assert choose(classes=NAMES, count=4, names=NAMES, text=None).groups is None


def test_unknown_names_are_taken_by_position() -> None:
    assert choose(classes=("a", "b"), count=2, names=(), text=None) == Chosen(("a", "b"), None)
    said = choose(classes=("a", "b"), count=2, names=("x", "y"), text=None).notes
    assert "'x' is 'a'" in said[0]
    with pytest.raises(TeacherError, match="--teacher-labels"):
        choose(classes=("a", "b"), count=3, names=(), text=None)


def test_no_labels_at_all() -> None:
    assert choose(classes=(), count=2, names=(), text=None).labels == ("0", "1")
    assert choose(classes=(), count=4, names=NAMES, text=None).labels == NAMES
    assert choose(classes=(), count=4, names=NAMES, text="0,cat\n2,dog").labels == ("cat", "dog")
    with pytest.raises(TeacherError, match="two or more"):
        choose(classes=(), count=4, names=NAMES, text="0,cat\n2,cat")
