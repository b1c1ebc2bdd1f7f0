"""One torch module: loaded, traced, numbered, cut, split and frozen."""
