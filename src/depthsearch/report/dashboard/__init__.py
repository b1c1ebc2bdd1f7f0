"""What optuna-dashboard shows of a study while it runs: a note and plots, kept in the study itself."""
