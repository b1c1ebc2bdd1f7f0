"""What a study trains next, and until when."""
