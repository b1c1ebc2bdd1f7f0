"""A stored study in values, and what they say."""
