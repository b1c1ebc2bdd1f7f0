"""What a study says, in text, as a page, and in optuna-dashboard."""
