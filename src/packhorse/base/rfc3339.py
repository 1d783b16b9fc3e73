"""Times as images have them: seconds since 1970 that RFC 3339 can say. Under every arrow."""

END = 253_402_300_800
"""The first second that it cannot say, in the year 10000."""
