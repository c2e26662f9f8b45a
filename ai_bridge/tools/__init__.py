"""Tools that a model may have run, and the bounds within which they run."""
