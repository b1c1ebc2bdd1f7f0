"""Follow a model operation by operation."""
