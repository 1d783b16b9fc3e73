"""② From an order to the groups worth trying, depth first and left to right (buildpack.md "Order
Resolution").

Pure: composite buildpacks are looked up through a function, and nothing is run here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from packhorse.buildpack.descriptor import Descriptor, Group, Order, Ref
from packhorse.errors import InputError

Lookup = Callable[[Ref], Descriptor]
"""Gives the descriptor of a buildpack named in an order; raises NotFoundError."""


def groups(order: Order, lookup: Lookup) -> Iterator[Group]:
    """Every group of component buildpacks the order stands for, in the order they are tried (B-038, B-039).

    An id that is already in a group is not added again (B-018). Versions are filled in from the descriptors.
    Raises InputError for composite buildpacks that contain themselves.
    """
    yield from _order(order, (), (), lookup, optional=False, inside=())


def _order(
    order: Order, done: Group, rest: Group, lookup: Lookup, *, optional: bool, inside: tuple[str, ...]
) -> Iterator[Group]:
    for group in order:
        yield from _group(group, rest, done, lookup, inside)
    if optional:
        yield from _group(rest, (), done, lookup, inside[:-1])


def _group(
    group: Group, rest: Group, done: Group, lookup: Lookup, inside: tuple[str, ...]
) -> Iterator[Group]:
    elements = group + rest
    for index, ref in enumerate(elements):
        if any(ref.id == other.id for other in done):
            continue
        descriptor = lookup(ref)
        if descriptor.order:
            # Only what stands inside a composite can close a cycle; what follows it stands beside it.
            around = inside if index < len(group) else ()
            if descriptor.id in around:
                cycle = " -> ".join((*around, descriptor.id))
                raise InputError("a composite buildpack contains itself", why=cycle)
            after = elements[index + 1 :]
            yield from _order(
                descriptor.order, done, after, lookup, optional=ref.optional, inside=(*around, descriptor.id)
            )
            return
        done = (*done, Ref(descriptor.id, descriptor.version, ref.optional))
    yield done
