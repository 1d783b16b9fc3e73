"""The use case behind `packhorse build`.

`plan.resolve` turns a request into a plan and decides everything that can be decided before anything runs.
`execute.execute` runs the plan.
"""
