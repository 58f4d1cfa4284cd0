"""Classes of values: dataclasses that are frozen and share their methods.

`dataclass(frozen=True)` compiles seven methods for each class when its module is imported. With some 130 classes that
is a sixth of what a short command takes. Here one method serves all, and only `__init__` is compiled for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform, overload

Class = TypeVar("Class", bound=type)


@overload
def frozen(cls: Class, /) -> Class: ...
@overload
def frozen(*, eq: bool = True, kw_only: bool = False) -> Callable[[Class], Class]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: Class | None = None, /, *, eq: bool = True, kw_only: bool = False) -> Class | Callable[[Class], Class]:
    """Make a class a dataclass whose fields are set once.

    Values are equal if their classes and compared fields are. `field`, `replace`, `asdict` and patterns of `match`
    work as with any dataclass.

    Args:
        cls: The class.
        eq: Whether values are compared and hashed by their fields; False: by identity.
        kw_only: Whether all fields are keyword arguments.
    """

    def made(cls: Class) -> Class:
        dataclass(eq=False, repr=False, kw_only=kw_only)(cls)
        methods: dict[str, Any] = {"__repr__": _repr, "__setattr__": _set_once, "__delattr__": _delete}
        if eq:
            methods |= {"__eq__": _equal, "__hash__": _hash}
            methods["__compared__"] = attrgetter("__class__", *(each.name for each in fields(cls) if each.compare))
        for name, method in methods.items():
            if name not in vars(cls):
                setattr(cls, name, method)
        return cls

    return made if cls is None else made(cls)


def _repr(self: Any) -> str:  # noqa: ANN401 - a method of every value
    shown = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
    return f"{type(self).__qualname__}({shown})"


def _equal(self: Any, other: Any) -> bool:  # noqa: ANN401 - a method of every value
    if other.__class__ is not self.__class__:
        return NotImplemented  # type: ignore[no-any-return]
    return bool(self.__compared__(self) == self.__compared__(other))


def _hash(self: Any) -> int:  # noqa: ANN401 - a method of every value
    return hash(self.__compared__(self))


def _set_once(self: Any, name: str, content: object) -> None:  # noqa: ANN401 - a method of every value
    if name in self.__dict__ or name not in self.__dataclass_fields__:
        message = f"cannot assign to field {name!r}"
        raise FrozenInstanceError(message)
    self.__dict__[name] = content


def _delete(self: Any, name: str) -> None:  # noqa: ANN401, ARG001 - a method of every value
    message = f"cannot delete field {name!r}"
    raise FrozenInstanceError(message)
