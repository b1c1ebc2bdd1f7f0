"""What optuna-dashboard shows of a study while it runs: a note and plots, kept in the study itself."""

from depthsearch.report.dashboard.keeping import BEGIN, END, keep_note, keep_plot
from depthsearch.report.dashboard.note import note_text
from depthsearch.report.dashboard.refreshing import plots_of, refresh, refreshed

__all__ = ["BEGIN", "END", "keep_note", "keep_plot", "note_text", "plots_of", "refresh", "refreshed"]
