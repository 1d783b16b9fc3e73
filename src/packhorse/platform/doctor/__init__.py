"""The use case behind `packhorse doctor`: `checkup` has the list of checks, `mending` does what it says."""
