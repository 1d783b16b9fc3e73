"""Makes dataclasses like the standard library's in a fifteenth of the time.

    from packhorse.base.dataclass import dataclass, field, replace

The standard library compiles the methods of each class at every start: 0.5 ms per class, 60 ms for
the hundred classes of an unchanged build (docs/decisions/0019). Here all classes share the same functions. A
type checker sees the standard library's decorator, and the standard `fields`, `asdict` and `replace` work.
Not supported: `KW_ONLY`, `InitVar`, `eq=False`, `unsafe_hash`, and a standard dataclass as a subclass.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

# Type checkers take this name as true. Importing `typing` would slow down a buildpack's detection.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MISSING: Any = object()
_FIELDS = "__packhorse_fields__"
_put = object.__setattr__  # works on frozen classes too


class _Field:
    """One field; `options` are those of the standard library's `field`."""

    def __init__(self, **options: Any) -> None:
        self.name, self.annotation = "", ""
        self.default, self.factory = options.get("default", _MISSING), options.get("default_factory")
        self.options = {"init": True, "repr": True, "compare": True, **options}
        if options.get("hash") is None:
            self.options["hash"] = self.options["compare"]

    def make_default(self) -> Any:
        """Returns the default, from the factory if there is one; _MISSING if there is no default."""
        return self.factory() if self.factory else self.default


class _StandardFields:
    """Builds the standard library's field objects when the standard library asks for them."""

    def __get__(self, instance: object, owner: type) -> Any:
        import dataclasses

        fields = [
            (one.name, one.annotation, dataclasses.field(**one.options)) for one in getattr(owner, _FIELDS)
        ]
        made: Any = dataclasses.make_dataclass(owner.__name__, fields)
        return made.__dataclass_fields__


def _dataclass(cls: type | None = None, /, **how: bool) -> Any:
    """Returns a new class with the fields and methods of a dataclass, and with slots if `slots` is true."""
    return (lambda body: _make(body, **how)) if cls is None else _make(cls, **how)


def _make(
    cls: type, *, frozen: bool = False, slots: bool = False, order: bool = False, kw_only: bool = False
) -> type:
    body = {name: value for name, value in cls.__dict__.items() if name not in ("__dict__", "__weakref__")}
    inherited = {one.name: one for base in reversed(cls.__mro__) for one in base.__dict__.get(_FIELDS, ())}
    own = _own_fields(cls, kw_only)
    fields = tuple({**inherited, **own}.values())
    for name, one in own.items():
        body.pop(name, None)
        if one.default is not _MISSING and not slots:
            body[name] = one.default
    if slots:
        body["__slots__"] = tuple(name for name in own if name not in inherited)
    if body.get("__hash__") is None:  # the interpreter sets it to None in a class that has __eq__
        body.pop("__hash__", None)
    body |= {"__qualname__": cls.__qualname__, _FIELDS: fields, "__dataclass_fields__": _StandardFields()}
    given = sorted((one for one in fields if one.options["init"]), key=lambda one: one.options["kw_only"])
    body["__match_args__"] = tuple(one.name for one in given if not one.options["kw_only"])
    methods = _make_methods(fields, frozen=frozen, order=order)
    methods["__init__"] = _make_initializer(cls, given, [one for one in fields if not one.options["init"]])
    return type(cls)(cls.__name__, cls.__bases__, methods | body)


def _own_fields(cls: type, kw_only: bool) -> dict[str, _Field]:
    fields = {}
    for name, annotation in cls.__annotations__.items():
        kind = str(annotation).partition("[")[0]
        if "ClassVar" in kind:
            continue
        value = cls.__dict__.get(name, _MISSING)
        one = value if type(value) is _Field else _Field() if value is _MISSING else _Field(default=value)
        if "InitVar" in kind or "KW_ONLY" in kind or type(one.default) in (list, dict, set):
            raise TypeError(f"{cls.__qualname__}.{name}: use kw_only, __post_init__ or default_factory")
        one.name, one.annotation, fields[name] = name, annotation, one
        one.options.setdefault("kw_only", kw_only)
    return fields


def _make_initializer(cls: type, given: Sequence[_Field], others: Sequence[_Field]) -> Callable[..., None]:
    names = [one.name for one in given]
    positional = sum(not one.options["kw_only"] for one in given)
    count = positional if positional == len(given) else -1
    has_check = hasattr(cls, "__post_init__")

    def __init__(self: Any, /, *values: Any, **named: Any) -> None:
        if named or len(values) != count:
            if len(values) > positional:
                raise TypeError(
                    f"{cls.__qualname__} takes {positional} values by position, not {len(values)}"
                )
            values = (*values, *_bind_keywords(cls, given[len(values) :], named))
        for name, value in zip(names, values, strict=True):
            _put(self, name, value)
        for one in others:
            _put(self, one.name, one.make_default())
        if has_check:
            self.__post_init__()

    return __init__


def _bind_keywords(cls: type, fields: Sequence[_Field], named: dict[str, Any]) -> list[Any]:
    """Returns the values of the fields not passed by position; TypeError if one is missing or unknown."""
    values = [named.pop(one.name) if one.name in named else one.make_default() for one in fields]
    if named:
        raise TypeError(f"{cls.__qualname__} has no field {next(iter(named))}, or has its value already")
    if missing := [one.name for one, value in zip(fields, values, strict=True) if value is _MISSING]:
        raise TypeError(f"{cls.__qualname__} lacks {', '.join(missing)}")
    return values


def _make_methods(fields: Sequence[_Field], *, frozen: bool, order: bool) -> dict[str, Any]:
    """Returns the methods for a class whose body does not define them."""
    printed, compared, hashed = (
        [one.name for one in fields if one.options[option]] for option in ("repr", "compare", "hash")
    )

    def __repr__(self: Any) -> str:
        return (
            f"{type(self).__qualname__}({', '.join([f'{name}={getattr(self, name)!r}' for name in printed])})"
        )

    def __hash__(self: Any) -> int:
        return hash(tuple([getattr(self, name) for name in hashed]))

    def __setstate__(self: Any, state: Any) -> None:  # called by `copy` and `pickle`
        for part in state if isinstance(state, tuple) else (state,):
            for name, value in (part or {}).items():
                _put(self, name, value)

    def __setattr__(self: Any, name: str, value: Any = None) -> None:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot change field {name!r}")

    methods: dict[str, Any] = {"__repr__": __repr__, "__hash__": __hash__ if frozen else None}
    for name in ("eq", "lt", "le", "gt", "ge") if order else ("eq",):
        methods[f"__{name}__"] = _make_comparison(getattr(operator, name), compared)
    changes = {"__setstate__": __setstate__, "__setattr__": __setattr__, "__delattr__": __setattr__}
    return methods | (changes if frozen else {})


def _make_comparison(compare: Callable[[Any, Any], Any], names: Sequence[str]) -> Callable[[Any, Any], Any]:
    get = operator.attrgetter(*names) if names else lambda instance: ()

    def compare_to(self: Any, other: object) -> Any:
        return compare(get(self), get(other)) if type(other) is type(self) else NotImplemented

    return compare_to


def _replace(instance: Any, /, **changes: Any) -> Any:
    """Returns a copy with some values changed."""
    for one in getattr(instance, _FIELDS):
        if one.options["init"]:
            changes.setdefault(one.name, getattr(instance, one.name))
    return type(instance)(**changes)


if TYPE_CHECKING:
    from dataclasses import dataclass, field, replace
else:
    dataclass, field, replace = _dataclass, _Field, _replace

__all__ = ["dataclass", "field", "replace"]
