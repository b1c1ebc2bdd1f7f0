"""The commands, a module each, which has the command under its own name. Imported once it is to run."""
