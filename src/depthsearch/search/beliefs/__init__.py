"""What the trials say: how the score depends on the setting, how sure that is, and what follows of it."""
