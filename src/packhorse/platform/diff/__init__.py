"""The use case behind `packhorse diff`: `comparison` finds what differs, `report` is how programs read it."""
