#!python
"""The script that an installer puts on PATH as `packhorse`, after it changes the first line to its Python.

Before any import, it makes Ctrl-C end the process silently. Otherwise Python would print a traceback if
Ctrl-C came during the imports. When `program` runs, `packhorse.cli.signals` handles Ctrl-C.
"""

from __future__ import annotations

if __name__ == "__main__":
    # The module signal is built on this one, and takes milliseconds longer because of its enums.
    import _signal  # type: ignore[import-not-found]

    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:  # not if the caller ignores SIGINT
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

    from packhorse.cli.main import program

    program()
