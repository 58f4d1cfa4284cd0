"""Values behave as `dataclass(frozen=True)` does."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import pytest

from orchestrator.values import frozen


@frozen
class Ours:
    a: int
    b: list[int] = field(default_factory=list, compare=False)
    c: str = field(default="x", repr=False)

    @cached_property
    def twice(self) -> int:
        return 2 * self.a


@dataclass(frozen=True)
class Theirs:
    a: int
    b: list[int] = field(default_factory=list, compare=False)
    c: str = field(default="x", repr=False)


@frozen
class Longer(Ours):
    d: float = 0.5


@frozen(eq=False)
class Alone:
    a: int


@frozen(kw_only=True)
class Named:
    a: int = 1


@frozen
class Empty:
    pass


@pytest.mark.parametrize("kind", [Ours, Theirs])
def test_values_are_equal_by_their_compared_fields(kind: type[Any]) -> None:
    one = kind(1, [2])
    assert one == kind(1, [3])
    assert hash(one) == hash(kind(1, []))
    assert one != kind(2, [2])
    assert one != kind(1, [2], "y")
    assert repr(one) == f"{kind.__name__}(a=1, b=[2])"
    assert asdict(replace(one, a=5)) == {"a": 5, "b": [2], "c": "x"}
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one  # noqa: S301 - it is our own
    assert [each.name for each in fields(one)] == ["a", "b", "c"]
    assert kind.__match_args__ == ("a", "b", "c")


def test_another_class_is_not_equal() -> None:
    assert Ours(1) != Theirs(1)  # type: ignore[comparison-overlap]
    assert Ours(1) != Longer(1)
    assert Longer(1) == Longer(1, d=0.5)
    assert Longer(1) != Longer(1, d=0.25)
    assert repr(Longer(1)) == "Longer(a=1, b=[], d=0.5)"
    assert Empty() == Empty()
    assert len({Empty(), Empty(), Ours(1), Ours(1)}) == 2


@pytest.mark.parametrize("name", ["a", "c", "nothing"])
@pytest.mark.parametrize("kind", [Ours, Theirs, Longer, Alone])
def test_a_field_is_set_once(kind: type[Any], name: str) -> None:
    one = kind(1)
    with pytest.raises(FrozenInstanceError, match=f"cannot assign to field '{name}'"):
        setattr(one, name, 2)
    with pytest.raises(FrozenInstanceError, match=f"cannot delete field '{name}'"):
        delattr(one, name)
    assert one.a == 1


def test_what_is_calculated_once_is_kept() -> None:
    one = Ours(4)
    assert one.twice == 8
    assert "twice" in vars(one)
    assert one == Ours(4)
    with pytest.raises(AttributeError):
        one.twice = 9


def test_identity_and_names_as_asked() -> None:
    assert Alone(1) != Alone(1)
    assert len({Alone(1), Alone(1)}) == 2
    with pytest.raises(TypeError):
        Named(1)  # type: ignore[call-arg]
    assert Named(a=2) == Named(a=2)


def test_a_method_of_the_class_stays() -> None:
    @frozen
    class Loud:
        a: int

        def __repr__(self) -> str:
            return "LOUD"

        def __hash__(self) -> int:
            return 7

    assert repr(Loud(1)) == "LOUD"
    assert hash(Loud(1)) == 7
    assert Loud(1) == Loud(1)
