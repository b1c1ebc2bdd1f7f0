"""Where kept tensors lie: in memory and in files."""
