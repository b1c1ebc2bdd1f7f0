"""The report of a stored study."""
