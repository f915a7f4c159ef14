"""A fund on live data, for the command line."""
