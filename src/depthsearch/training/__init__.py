"""One setting trained and measured."""
