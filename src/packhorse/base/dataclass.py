"""The standard library's dataclasses, made in a fifteenth of the time; under everything.

    from packhorse.base.dataclass import dataclass, field, replace

Each of the standard library's own compiles its methods anew whenever a program begins: half a millisecond for
one, 60 ms of an unchanged build for the hundred that it needs (docs/decisions/0019). Here all classes share
the same few functions. What they do is what their namesakes do, and a type checker sees those; to
`dataclasses.fields`, `asdict`, `is_dataclass` and `inspect.signature` these are dataclasses like any other.
Not here: `KW_ONLY`, `InitVar`, `make_dataclass`, `eq=False` and `unsafe_hash`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import attrgetter

# To a type checker it is true by its name; a detection does without `typing` itself.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NOTHING: Any = object()
_FIELDS = "__packhorse_fields__"
_NO_FIELDS = ("ClassVar", "InitVar", "KW_ONLY", "_KW_ONLY_TYPE")
"""Annotations of what is no field; all but the first are not had here."""


class _Field:
    """What is known of one field; `name` and `annotation` once its class is made."""

    __slots__ = ("annotation", "compare", "default", "factory", "hash", "init", "kw_only", "name", "repr")

    def __init__(
        self,
        *,
        default: Any = _NOTHING,
        default_factory: Any = _NOTHING,
        init: bool = True,
        repr: bool = True,
        hash: bool | None = None,
        compare: bool = True,
        kw_only: bool | None = None,
    ) -> None:
        self.name = ""
        self.annotation: Any = None
        self.default = default
        self.factory = default_factory
        self.init = init
        self.repr = repr
        self.hash = compare if hash is None else hash
        self.compare = compare
        self.kw_only: Any = kw_only

    def has_default(self) -> bool:
        return self.default is not _NOTHING or self.factory is not _NOTHING

    def initial(self) -> Any:
        return self.default if self.factory is _NOTHING else self.factory()


class _Standard:
    """What the standard library gives a class at once, made when it is asked for."""

    def __init__(self, name: str, make: Callable[[type], Any]) -> None:
        self._name = name
        self._make = make

    def __get__(self, instance: object, owner: type) -> Any:
        made = self._make(owner)
        if self._name in owner.__dict__:
            setattr(owner, self._name, made)
        return made


def _dataclass(
    cls: type | None = None,
    /,
    *,
    frozen: bool = False,
    slots: bool = False,
    order: bool = False,
    kw_only: bool = False,
) -> Any:
    """A class with these fields, in slots or in a `__dict__`, and the methods of a dataclass."""

    def make(original: type) -> type:
        return _made(original, frozen=frozen, slots=slots, order=order, kw_only=kw_only)

    return make if cls is None else make(cls)


def _made(cls: type, *, frozen: bool, slots: bool, order: bool, kw_only: bool) -> type:
    inherited = {one.name: one for base in reversed(cls.__mro__) for one in base.__dict__.get(_FIELDS, ())}
    namespace = dict(cls.__dict__)
    own = _own_fields(cls, namespace, kw_only=kw_only)
    fields = tuple({**inherited, **own}.values())
    given = [one for one in fields if one.init]
    given.sort(key=lambda one: one.kw_only)
    _check_order(cls, given)
    for name in ("__dict__", "__weakref__"):
        namespace.pop(name, None)
    if slots:
        namespace["__slots__"] = tuple(name for name in own if name not in inherited)
    namespace["__match_args__"] = tuple(one.name for one in given if not one.kw_only)
    namespace[_FIELDS] = fields
    for name, make in (
        ("__dataclass_fields__", _standard_fields),
        ("__dataclass_params__", partial(_standard_params, frozen, order)),
        ("__signature__", _standard_signature),
    ):
        namespace[name] = _Standard(name, make)
    if "__eq__" in namespace and namespace.get("__hash__") is None:
        namespace.pop("__hash__", None)  # which the interpreter has put there
    for name, method in _methods(fields, frozen=frozen, slots=slots, order=order).items():
        namespace.setdefault(name, method)
    made = _with_slots(cls, namespace) if slots else _extended(cls, namespace, own)
    if "__init__" not in namespace:
        type.__setattr__(made, "__init__", _initializer(made, fields, given))
    return made


def _with_slots(cls: type, namespace: dict[str, Any]) -> type:
    """The class made once more, as slots have to be known when it is."""
    made = type(cls)(cls.__name__, cls.__bases__, namespace)
    made.__qualname__ = cls.__qualname__
    return made


def _extended(cls: type, namespace: Mapping[str, Any], own: Mapping[str, _Field]) -> type:
    """The class itself, with what it lacks."""
    for name, one in own.items():
        if one.default is not _NOTHING:
            setattr(cls, name, one.default)
        elif name in cls.__dict__:
            delattr(cls, name)
    for name, value in namespace.items():
        if name not in cls.__dict__ or name == "__hash__":
            setattr(cls, name, value)
    return cls


def _own_fields(cls: type, namespace: dict[str, Any], *, kw_only: bool) -> dict[str, _Field]:
    """The fields of the class's own body, whose defaults are taken out of its namespace."""
    own = {}
    for name, annotation in cls.__annotations__.items():
        text = annotation if isinstance(annotation, str) else repr(annotation)
        kind = text.partition("[")[0].partition(" object")[0].rpartition(".")[2]
        if kind == "ClassVar":
            continue
        if kind in _NO_FIELDS:
            raise TypeError(f"{cls.__qualname__}.{name}: {kind} is not had here")
        default = namespace.pop(name, _NOTHING)
        one = default if type(default) is _Field else _Field(default=default)
        if type(one.default) in (list, dict, set):
            raise ValueError(
                f"{cls.__qualname__}.{name}: {type(one.default)} would be shared: default_factory"
            )
        one.name, one.annotation = name, annotation
        one.kw_only = kw_only if one.kw_only is None else one.kw_only
        own[name] = one
    return own


def _check_order(cls: type, given: Sequence[_Field]) -> None:
    optional = ""
    for one in given:
        if one.kw_only:
            return
        if optional and not one.has_default():
            raise TypeError(f"{cls.__qualname__}.{one.name} has no default and follows {optional}, which has")
        optional = one.name if one.has_default() else ""


def _initializer(made: type, fields: Iterable[_Field], given: Sequence[_Field]) -> Callable[..., None]:
    """`__init__`: sets slots as they are, as a frozen class takes no assignment."""
    setters = [_setter(made, one.name) for one in given]
    others = [(_setter(made, one.name), one) for one in fields if not one.init]
    positional = sum(not one.kw_only for one in given)
    count = len(given) if positional == len(given) else -1
    finish = getattr(made, "__post_init__", None)

    def __init__(self: Any, /, *values: Any, **named: Any) -> None:
        if named or len(values) != count:
            values = _arranged(made, given, positional, values, named)
        for put, value in zip(setters, values, strict=True):
            put(self, value)
        for put, one in others:
            if one.has_default():
                put(self, one.initial())
        if finish is not None:
            finish(self)

    __init__.__qualname__ = f"{made.__qualname__}.__init__"
    return __init__


def _setter(made: type, name: str) -> Callable[[Any, Any], None]:
    set_slot: Callable[[Any, Any], None] | None = getattr(getattr(made, name, None), "__set__", None)
    return set_slot or partial(_put, name)


def _put(name: str, instance: Any, value: Any) -> None:
    instance.__dict__[name] = value


def _arranged(
    made: type, given: Sequence[_Field], positional: int, values: tuple[Any, ...], named: dict[str, Any]
) -> tuple[Any, ...]:
    """The values of all that is given, in the order of the fields; takes what it finds out of `named`."""
    if len(values) > positional:
        raise TypeError(f"{made.__qualname__} takes {positional} values by position, not {len(values)}")
    arranged = list(values)
    missing = []
    for one in given[len(values) :]:
        if one.name in named:
            arranged.append(named.pop(one.name))
        elif one.has_default():
            arranged.append(one.initial())
        else:
            missing.append(one.name)
    if named:
        twice = [one.name for one in given[: len(values)] if one.name in named]
        word = "is given twice" if twice else "is no field of it that can be given"
        raise TypeError(f"{made.__qualname__}: {(twice or [*named])[0]} {word}")
    if missing:
        raise TypeError(f"{made.__qualname__} lacks {', '.join(missing)}")
    return tuple(arranged)


def _methods(fields: Sequence[_Field], *, frozen: bool, slots: bool, order: bool) -> dict[str, Any]:
    """Those that a dataclass has where its body has none."""
    told = [one.name for one in fields if one.repr]
    compared = _values([one for one in fields if one.compare])

    def __repr__(self: Any) -> str:
        values = ", ".join([f"{name}={getattr(self, name)!r}" for name in told])
        return f"{type(self).__qualname__}({values})"

    def __eq__(self: Any, other: object) -> Any:
        return compared(self) == compared(other) if type(other) is type(self) else NotImplemented

    methods: dict[str, Any] = {"__repr__": __repr__, "__eq__": __eq__}
    if frozen and slots:
        methods |= _state(fields)
    if order:
        methods |= _ordering(compared)
    if not frozen:
        return {**methods, "__hash__": None}
    key = _values([one for one in fields if one.hash])

    def __hash__(self: Any) -> int:
        return hash(key(self))

    names = {one.name for one in fields}

    def __setattr__(self: Any, name: str, value: Any) -> None:
        if name in names or _FIELDS in type(self).__dict__:
            raise _frozen("assign to", name)
        object.__setattr__(self, name, value)

    def __delattr__(self: Any, name: str) -> None:
        if name in names or _FIELDS in type(self).__dict__:
            raise _frozen("delete", name)
        object.__delattr__(self, name)

    return {**methods, "__hash__": __hash__, "__setattr__": __setattr__, "__delattr__": __delattr__}


def _state(fields: Sequence[_Field]) -> dict[str, Any]:
    """What `copy` and `pickle` need of a class whose slots they cannot set."""
    state = _values(fields)

    def __getstate__(self: Any) -> tuple[Any, ...]:
        return state(self)

    def __setstate__(self: Any, values: tuple[Any, ...]) -> None:
        for one, value in zip(fields, values, strict=True):
            object.__setattr__(self, one.name, value)

    return {"__getstate__": __getstate__, "__setstate__": __setstate__}


def _values(fields: Sequence[_Field]) -> Callable[[Any], tuple[Any, ...]]:
    """The values of these fields of an instance."""
    names = [one.name for one in fields]
    if len(names) > 1:
        get: Callable[[Any], tuple[Any, ...]] = attrgetter(*names)
        return get
    return lambda instance: tuple([getattr(instance, name) for name in names])


def _ordering(key: Callable[[Any], tuple[Any, ...]]) -> dict[str, Any]:
    def __lt__(self: Any, other: object) -> Any:
        return key(self) < key(other) if type(other) is type(self) else NotImplemented

    def __le__(self: Any, other: object) -> Any:
        return key(self) <= key(other) if type(other) is type(self) else NotImplemented

    def __gt__(self: Any, other: object) -> Any:
        return key(self) > key(other) if type(other) is type(self) else NotImplemented

    def __ge__(self: Any, other: object) -> Any:
        return key(self) >= key(other) if type(other) is type(self) else NotImplemented

    return {each.__name__: each for each in (__lt__, __le__, __gt__, __ge__)}


def _frozen(verb: str, name: str) -> Exception:
    from dataclasses import FrozenInstanceError

    return FrozenInstanceError(f"cannot {verb} field {name!r}")


def _replace(instance: Any, /, **changes: Any) -> Any:
    """The instance with some values changed."""
    fields: tuple[_Field, ...] | None = getattr(type(instance), _FIELDS, None)
    if fields is None:
        from dataclasses import replace as replace_standard

        return replace_standard(instance, **changes)
    for one in fields:
        if one.init:
            changes.setdefault(one.name, getattr(instance, one.name))
        elif one.name in changes:
            raise ValueError(f"{one.name} of {type(instance).__qualname__} cannot be given")
    return type(instance)(**changes)


def _standard(owner: type) -> type:
    """A class of the standard library with the same fields."""
    import dataclasses

    fields: tuple[_Field, ...] = getattr(owner, _FIELDS)
    specified = []
    for one in fields:
        options: dict[str, Any] = {
            name: getattr(one, name) for name in ("init", "repr", "hash", "compare", "kw_only")
        }
        if one.factory is not _NOTHING:
            options["default_factory"] = one.factory
        elif one.default is not _NOTHING:
            options["default"] = one.default
        specified.append((one.name, one.annotation, dataclasses.field(**options)))
    return dataclasses.make_dataclass(owner.__name__, specified)


def _standard_fields(owner: type) -> Any:
    return getattr(_standard(owner), "__dataclass_fields__")  # noqa: B009 -- to mypy no type has it


def _standard_params(frozen: bool, order: bool, owner: type) -> Any:
    import dataclasses

    made = dataclasses.make_dataclass(owner.__name__, [], frozen=frozen, order=order)
    return getattr(made, "__dataclass_params__")  # noqa: B009


def _standard_signature(owner: type) -> Any:
    import inspect

    return inspect.signature(_standard(owner))


if TYPE_CHECKING:
    from dataclasses import dataclass, field, replace
else:
    dataclass, field, replace = _dataclass, _Field, _replace

__all__ = ["dataclass", "field", "replace"]
