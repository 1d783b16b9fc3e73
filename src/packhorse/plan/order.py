"""② From an order to the groups worth trying, depth first and left to right.

(buildpack.md "Order Resolution".)

Pure: composite buildpacks are looked up through a function, and nothing is run here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from packhorse.base.dataclass import dataclass
from packhorse.buildpack.descriptor import Descriptor, Group, Order, Ref
from packhorse.errors import InputError

Lookup = Callable[[Ref], Descriptor]
"""Gives the descriptor of a buildpack named in an order; raises NotFoundError."""


def groups(order: Order, lookup: Lookup) -> Iterator[Group]:
    """Every group of component buildpacks the order stands for, in the order they are tried (B-038, B-039).

    An id that is already in a group is not added again (B-018). Versions are filled in from the descriptors.
    Raises InputError for composite buildpacks that contain themselves.
    """
    yield from _order(_within(order, ()), (), (), lookup, optional=False)


@dataclass(frozen=True, slots=True)
class _Element:
    """An entry of a group, and the ids of the composite buildpacks it stands in, outermost first."""

    ref: Ref
    inside: tuple[str, ...]


_Elements = tuple[_Element, ...]


def _within(order: Order, inside: tuple[str, ...]) -> tuple[_Elements, ...]:
    return tuple(tuple(_Element(ref, inside) for ref in group) for group in order)


def _order(
    order: tuple[_Elements, ...], done: Group, rest: _Elements, lookup: Lookup, *, optional: bool
) -> Iterator[Group]:
    for group in order:
        yield from _group(group + rest, done, lookup)
    if optional:
        yield from _group(rest, done, lookup)


def _group(elements: _Elements, done: Group, lookup: Lookup) -> Iterator[Group]:
    for index, element in enumerate(elements):
        ref = element.ref
        if any(ref.id == other.id for other in done):
            continue
        descriptor = lookup(ref)
        if descriptor.order:
            inside = (*element.inside, descriptor.id)
            if descriptor.id in element.inside:
                raise InputError("a composite buildpack contains itself", why=" -> ".join(inside))
            order = _within(descriptor.order, inside)
            yield from _order(order, done, elements[index + 1 :], lookup, optional=ref.optional)
            return
        done = (*done, Ref(descriptor.id, descriptor.version, ref.optional))
    yield done
