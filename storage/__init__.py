"""Durable storage behind one contract: SQLite, MySQL and the group-commit batcher."""
