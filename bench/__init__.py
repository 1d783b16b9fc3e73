"""Benchmarks: how long packhorse takes for something, beside other programs that do the same, in one run.

`make bench`, or `python -m bench NAME…`. A scenario is a module of this package with `run`, which yields what
it measured; figures of other machines and other days are never compared, so what counts is the ratio.
"""
