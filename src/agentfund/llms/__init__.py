"""Routes to language models: one file for each."""
