#!python
"""The program itself: what an installer puts on PATH as `packhorse`, its first line with the right Python.

Nothing is imported before Ctrl-C ends the process without a word. Python's own answer to it is a traceback,
for as long as our commands take to import, and the scripts that installers write begin with imports. Once
`program` runs, `signals` takes over.
"""

from __future__ import annotations

if __name__ == "__main__":
    # What the module signal is made of, without the milliseconds that its enums take.
    import _signal  # type: ignore[import-not-found]

    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:  # not where it is ignored
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

    from packhorse.cli.main import program

    program()
