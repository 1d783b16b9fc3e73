"""HTML out of text that anybody may have written: what is no `Markup` is escaped, wherever it stands.

Called by `diff_page`.
"""

from __future__ import annotations

from html import escape

_VOID = frozenset({"meta", "link", "br"})


class Markup(str):
    """HTML as it is: made here alone, of what was escaped, or of our own files."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | bool) -> Markup:
    """An element. An attribute's name is written `class_` or `http_equiv`; one that is False is left out."""
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    inner = "".join(child if isinstance(child, Markup) else escape(child) for child in children)
    return Markup(f"<{name}{written}>{inner}</{name}>")
