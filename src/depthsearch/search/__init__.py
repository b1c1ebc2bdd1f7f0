"""What may be tried, and what to try next."""
