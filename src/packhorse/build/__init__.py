"""The use case behind `packhorse build`: a request becomes a plan, and the plan is executed.

`spec.resolve` decides everything that can be decided before anything runs; `execute` runs it.
"""
