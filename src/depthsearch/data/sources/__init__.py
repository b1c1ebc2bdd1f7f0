"""Where images come from: folders, tables, sets that have a name."""
