"""The node's decision for every state of the world, in one table."""

from collections.abc import Mapping

import pytest

from edge.node.catalog import Catalog
from edge.node.decide import Action, Activate, Keep, Observation, Refuse, Trouble, Wait, decide
from edge.node.state import Release

D = {version: f"{version:064x}" for version in range(1, 6)}
ACTIVE = Release("tiny", 2, D[2])
SILENT = Trouble("unreachable", "the origin does not answer", is_refusal=False)
FORGED = Trouble("bad_signature", "the list is not signed", is_refusal=True)
Origin = Catalog | Trouble | None


def listed(*versions: int, minimum: int = 0) -> Catalog:
    return Catalog(max(versions, default=0), minimum, {v: D[v] for v in versions}, {})


def seen(
    *,
    desired: int | None = None,
    follow: bool = False,
    active: Release | None = ACTIVE,
    origin: Origin = None,
    refused: Mapping[tuple[int, str], str] | None = None,
) -> Observation:
    return Observation("tiny", desired, follow, active, origin, refused or {})


ALL = listed(1, 2, 3)
TABLE: dict[str, tuple[Observation, Action]] = {
    "nothing assigned, nothing served": (
        seen(active=None),
        Keep("waiting", "no version is assigned to this node yet"),
    ),
    "nothing assigned, serving": (seen(), Keep("serving", "no version is assigned to this node yet")),
    "what is wanted is served": (seen(desired=2), Keep("serving", "")),
    "what is wanted is served, and the origin is down": (seen(desired=2, origin=SILENT), Keep("serving", "")),
    "what is wanted is served, and no longer listed": (seen(desired=2, origin=listed(3)), Keep("serving", "")),
    "another is wanted, unknown yet": (seen(desired=3), Wait()),
    "another is wanted, unknown yet, nothing served": (seen(desired=3, active=None), Wait()),
    "another is wanted, no answer": (
        seen(desired=3, origin=SILENT),
        Keep("serving", "release 3 is wanted; the origin does not answer"),
    ),
    "another is wanted, no answer, nothing served": (
        seen(desired=3, origin=SILENT, active=None),
        Keep("waiting", "release 3 is wanted; the origin does not answer"),
    ),
    "another is wanted, the list is refused": (
        seen(desired=3, origin=FORGED),
        Refuse(3, "", "bad_signature", "the list is not signed"),
    ),
    "another is wanted, no answer, it is in quarantine": (
        seen(desired=3, origin=SILENT, refused={(3, ""): "not_listed", (3, D[3]): "failing"}),
        Keep("serving", "release 3 is wanted; the origin does not answer", refused="failing"),
    ),
    "another is wanted, no answer, it is in quarantine, nothing served": (
        seen(desired=3, origin=SILENT, active=None, refused={(3, D[3]): "died"}),
        Keep("waiting", "release 3 is wanted; the origin does not answer", refused="died"),
    ),
    "another is wanted, no answer, two of its number are in quarantine: the last one": (
        seen(desired=3, origin=SILENT, refused={(3, D[4]): "crashed", (3, D[3]): "failing"}),
        Keep("serving", "release 3 is wanted; the origin does not answer", refused="failing"),
    ),
    "another is wanted, no answer, others are in quarantine": (
        seen(desired=3, origin=SILENT, refused={(4, D[4]): "failing"}),
        Keep("serving", "release 3 is wanted; the origin does not answer"),
    ),
    "another is wanted, no answer, what was wrong may be mended": (
        seen(desired=3, origin=SILENT, refused={(3, D[3]): "wrong_digest", (3, D[4]): "below_minimum"}),
        Keep("serving", "release 3 is wanted; the origin does not answer"),
    ),
    "another is wanted, no answer, no certain bytes were refused": (
        seen(desired=3, origin=SILENT, refused={(3, ""): "not_listed"}),
        Keep("serving", "release 3 is wanted; the origin does not answer"),
    ),
    "another is wanted, unknown yet, it is in quarantine": (
        seen(desired=3, refused={(3, D[3]): "failing"}),
        Wait(),  # what the last look said of it is shown
    ),
    "a newer one is wanted": (seen(desired=3, origin=ALL), Activate(Release("tiny", 3, D[3]))),
    "an older one is wanted: a legal revert": (seen(desired=1, origin=ALL), Activate(Release("tiny", 1, D[1]))),
    "the first one": (seen(desired=1, origin=ALL, active=None), Activate(Release("tiny", 1, D[1]))),
    "an older one below the minimum": (
        seen(desired=1, origin=listed(1, 2, 3, minimum=2)),
        Refuse(1, D[1], "below_minimum", "release 1 is below the signed minimum 2"),
    ),
    "the minimum was lowered": (
        seen(desired=1, origin=ALL, refused={(1, D[1]): "below_minimum"}),
        Activate(Release("tiny", 1, D[1])),
    ),
    "a copy was damaged at the origin, and may be mended": (
        seen(desired=3, origin=ALL, refused={(3, D[3]): "wrong_digest"}),
        Activate(Release("tiny", 3, D[3])),
    ),
    "a copy was damaged at the origin, nothing is new there": (
        seen(desired=3, refused={(3, D[3]): "wrong_digest"}),
        Wait(),
    ),
    "not listed": (
        seen(desired=4, origin=ALL),
        Refuse(4, "", "not_listed", "release 4 of 'tiny' is not listed by the origin"),
    ),
    "not listed once, listed now": (
        seen(desired=3, origin=ALL, refused={(3, ""): "not_listed"}),
        Activate(Release("tiny", 3, D[3])),
    ),
    "the list was refused once": (
        seen(desired=3, origin=ALL, refused={(3, ""): "bad_signature"}),
        Activate(Release("tiny", 3, D[3])),
    ),
    "in quarantine": (
        seen(desired=3, origin=ALL, refused={(3, D[3]): "wrong_answer"}),
        Keep("serving", "release 3 is in quarantine: wrong_answer", refused="wrong_answer"),
    ),
    "in quarantine, nothing served": (
        seen(desired=3, origin=ALL, active=None, refused={(3, D[3]): "crashed"}),
        Keep("waiting", "release 3 is in quarantine: crashed", refused="crashed"),
    ),
    "other bytes of that version were refused": (
        seen(desired=3, origin=ALL, refused={(3, D[4]): "wrong_answer"}),
        Activate(Release("tiny", 3, D[3])),
    ),
    "newest: it is bad, and nothing is served: the one before": (
        seen(follow=True, active=None, origin=listed(1, 2), refused={(2, D[2]): "wrong_answer"}),
        Activate(Release("tiny", 1, D[1])),
    ),
    "newest: its copy is damaged, and nothing is served: the one before": (
        seen(follow=True, active=None, origin=listed(1, 2), refused={(2, D[2]): "wrong_digest"}),
        Activate(Release("tiny", 1, D[1])),
    ),
    "newest: its copy was damaged": (
        seen(follow=True, origin=ALL, refused={(3, D[3]): "wrong_digest"}),
        Activate(Release("tiny", 3, D[3])),
    ),
    "newest: nothing new": (seen(follow=True), Wait()),
    "newest: no answer": (
        seen(follow=True, origin=SILENT),
        Keep("serving", "the newest release is wanted; the origin does not answer"),
    ),
    "newest: no answer, the newest known is in quarantine": (
        seen(follow=True, origin=SILENT, refused={(3, D[3]): "died"}),
        Keep("serving", "the newest release is wanted; the origin does not answer"),
    ),
    "newest: the list is refused": (
        seen(follow=True, origin=FORGED),
        Refuse(0, "", "bad_signature", "the list is not signed"),
    ),
    "newest: no release yet": (seen(follow=True, origin=listed(), active=None), Keep("waiting", "no release yet")),
    "newest: all below the minimum": (
        seen(follow=True, origin=listed(1, minimum=2), active=None),
        Keep("waiting", "no release yet"),
    ),
    "newest: a newer one": (seen(follow=True, origin=ALL), Activate(Release("tiny", 3, D[3]))),
    "newest: it is served": (seen(follow=True, origin=listed(1, 2)), Keep("serving", "")),
    "newest: what is served was withdrawn": (seen(follow=True, origin=listed(1)), Keep("serving", "")),
    "newest: in quarantine, the one before is served": (
        seen(follow=True, origin=ALL, refused={(3, D[3]): "died"}),
        Keep("serving", "release 3 is in quarantine: died", refused="died"),
    ),
    "newest: in quarantine, nothing served: the one before": (
        seen(follow=True, origin=ALL, active=None, refused={(3, D[3]): "died"}),
        Activate(Release("tiny", 2, D[2])),
    ),
    "newest: all in quarantine": (
        seen(follow=True, origin=listed(1, 3), active=None, refused={(3, D[3]): "died", (1, D[1]): "crashed"}),
        Keep("waiting", "release 3 is in quarantine: died", refused="died"),
    ),
}


@pytest.mark.parametrize("state", TABLE)
def test_decides(state: str) -> None:
    observation, action = TABLE[state]
    assert decide(observation) == action


def test_every_kind_of_action_and_of_answer_is_in_the_table() -> None:
    assert {type(action) for _, action in TABLE.values()} == {Wait, Keep, Refuse, Activate}
    assert {type(observation.origin) for observation, _ in TABLE.values()} == {Catalog, Trouble, type(None)}


def test_who_serves_goes_on_serving_whatever_else_is_seen() -> None:
    for observation, action in TABLE.values():
        if isinstance(action, Keep):
            assert action.state == ("serving" if observation.active else "waiting")
