"""The model to take away: trained, tested, saved, loaded, explained."""
