"""The options of a study: their words, how they are read, and the files that hold them. Loads no PyTorch."""
