"""What to train next: of all that may be done, what promises most for its cost."""
