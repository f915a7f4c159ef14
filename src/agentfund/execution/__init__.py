"""Between a fund and its broker: what has to hold whatever happens in between."""
