"""Our dataclasses are the standard library's, whatever their fields are and whatever is done with them."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as some

from packhorse.base import dataclass as ours

NAMES = ("a", "b", "c", "d")

options = some.fixed_dictionaries(
    {},
    optional={
        "default": some.integers(0, 9),
        "repr": some.booleans(),
        "compare": some.booleans(),
        "hash": some.sampled_from([None, True, False]),
        "kw_only": some.booleans(),
        "default_factory": some.just(list),
    },
).filter(lambda each: not {"default", "default_factory"} <= {*each})
bodies = some.dictionaries(some.sampled_from(NAMES), options, max_size=4)
classes = some.fixed_dictionaries(
    {"slots": some.booleans(), "frozen": some.booleans()},
    optional={"order": some.booleans(), "kw_only": some.booleans()},
)
values = some.lists(some.integers(0, 3), max_size=5)
named = some.dictionaries(some.sampled_from((*NAMES, "e")), some.integers(0, 3))


def made(library: Any, body: Mapping[str, Mapping[str, Any]], how: Mapping[str, Any], base: type) -> type:
    """The class, of the standard library or of ours."""
    content: dict[str, Any] = {name: library.field(**given) for name, given in body.items()}
    content |= {"__annotations__": dict.fromkeys(body, "int"), "__qualname__": "Some", "__module__": __name__}
    result: type = library.dataclass(**how)(type("Some", (base,), content))
    return result


def outcome(action: Callable[[], Any]) -> Any:
    """What comes of it: the value, or the kind of error."""
    try:
        return action()
    except (TypeError, ValueError, AttributeError) as error:
        return type(error)


def seen(one: Any, other: Any) -> list[Any]:
    """All that can be seen of an instance, and of it beside another."""
    fields = [field.name for field in dataclasses.fields(one)]
    return [
        repr(one),
        *(getattr(one, name, "none") for name in NAMES),
        outcome(lambda: hash(one)),
        one == other,
        one != other,
        one == 3,
        outcome(lambda: one < other),
        outcome(lambda: one <= other),
        outcome(lambda: one > other),
        outcome(lambda: one >= other),
        *(outcome(partial(setattr, one, name, getattr(one, name))) for name in fields),
        *(outcome(partial(delattr, copy.copy(one), name)) for name in fields),
        dataclasses.asdict(one),
        [(field.name, field.repr, field.compare, field.kw_only) for field in dataclasses.fields(one)],
        repr(copy.deepcopy(one)),
        type(one).__match_args__,
    ]


@given(bodies, bodies, classes, values, values, named, named)
def test_they_are_the_standard_librarys(
    above: Mapping[str, Mapping[str, Any]],
    body: Mapping[str, Mapping[str, Any]],
    how: Mapping[str, Any],
    first: list[int],
    second: list[int],
    by_name: Mapping[str, int],
    changes: Mapping[str, int],
) -> None:
    told = []
    for library in (dataclasses, ours):
        base = outcome(lambda library=library: made(library, above, how, object))  # type: ignore[misc]
        if not dataclasses.is_dataclass(base):
            return  # the type checker refuses it
        cls = outcome(lambda library=library, base=base: made(library, body, how, base))  # type: ignore[misc]
        if not dataclasses.is_dataclass(cls):
            return
        one = outcome(lambda cls=cls: cls(*first, **by_name))  # type: ignore[misc]
        other = outcome(lambda cls=cls: cls(*second))  # type: ignore[misc]
        all_seen = [inspect.isclass(one), inspect.isclass(other)]
        if isinstance(one, cls):
            all_seen += seen(one, other)
            all_seen.append(repr(outcome(lambda o=one, lib=library: lib.replace(o, **changes))))  # type: ignore[misc]
            all_seen.append(repr(outcome(lambda o=one: dataclasses.replace(o, **changes))))  # type: ignore[misc]
        told.append(all_seen)
    assert told[1] == told[0]


@ours.dataclass(frozen=True, slots=True)
class Point:
    """A value with all that our own have."""

    x: int
    y: int = 0
    words: list[str] = ours.field(default_factory=list, hash=False)
    count: ClassVar[int] = 7

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("negative")


def test_what_follows_the_making_sees_the_values() -> None:
    with pytest.raises(ValueError, match="negative"):
        Point(-1)
    assert (Point(1), Point.count) == (Point(1, 0, []), 7)


def test_every_instance_has_a_list_of_its_own() -> None:
    one, other = Point(1), Point(1)
    one.words.append("a")
    assert other.words == []


def test_an_instance_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(Point(1, 2))) == Point(1, 2)


@pytest.mark.parametrize("compare", [True, False])
def test_a_field_is_hashed_as_it_is_compared_unless_told_otherwise(compare: bool) -> None:
    options = {"default": 1, "compare": compare, "hash": None}
    how = {"frozen": True, "slots": True}
    first, second = (made(library, {"a": options}, how, object)() for library in (dataclasses, ours))
    assert hash(first) == hash(second)


def test_patterns_match_by_position() -> None:
    match Point(1, 2):
        case Point(x, y):
            assert (x, y) == (1, 2)
        case _:
            pytest.fail("no match")


def test_a_default_that_all_would_share_is_refused() -> None:
    with pytest.raises(TypeError, match="default_factory"):
        made(ours, {"a": {"default": []}}, {"slots": True}, object)


def test_a_class_without_slots_remembers_what_it_has_made_out() -> None:
    @ours.dataclass(frozen=True)
    class Some:
        name: str

        @cached_property
        def loud(self) -> str:
            return self.name.upper()

    some = Some("a")
    assert some.loud is some.loud
    with pytest.raises(dataclasses.FrozenInstanceError, match="name"):
        some.name = "b"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "named", "words"),
    [
        ((), {}, "lacks x"),
        ((1, 2, [], 4), {}, "3 values"),
        ((1,), {"x": 1}, "x, or has its value already"),
        ((1,), {"z": 1}, "has no field z"),
    ],
)
def test_an_error_says_which_value_is_wrong(values: Any, named: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        Point(*values, **named)


@pytest.mark.parametrize("annotation", [ClassVar[int], "ClassVar[int]", "typing.ClassVar", "t.ClassVar[int]"])
def test_what_belongs_to_the_class_is_no_field(annotation: Any) -> None:
    some = ours.dataclass(slots=True)(type("Some", (), {"__annotations__": {"n": annotation}, "n": 1}))
    assert (some.n, some()) == (1, some())


@pytest.mark.parametrize("annotation", ["InitVar[int]", "dataclasses.KW_ONLY", dataclasses.KW_ONLY])
def test_what_is_not_had_is_refused(annotation: Any) -> None:
    with pytest.raises(TypeError, match="use kw_only, __post_init__"):
        ours.dataclass(slots=True)(type("Some", (), {"__annotations__": {"n": annotation}}))


def test_no_source_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr("builtins.exec", refuse)
    monkeypatch.setattr("builtins.compile", refuse)
    made(ours, {"a": {}, "b": {"default": 1}}, {"slots": True, "frozen": True, "order": True}, object)
