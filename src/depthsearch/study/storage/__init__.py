"""The database that studies live in: SQLite on one machine, PostgreSQL for several."""
