"""What optuna-dashboard shows of a study while it runs: a note and plots, kept in the study itself."""

from depthsearch.live.keeping import BEGIN, END, keep_note, keep_plot
from depthsearch.live.note import note_text
from depthsearch.live.refreshing import plots_of, refresh, refreshed

__all__ = ["BEGIN", "END", "keep_note", "keep_plot", "note_text", "plots_of", "refresh", "refreshed"]
