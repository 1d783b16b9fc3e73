"""The base root file systems of the default builder, made from the distribution's own packages.

`roots` makes them; the rest is what it asks: which packages, from where, by which program, what stays.
"""
