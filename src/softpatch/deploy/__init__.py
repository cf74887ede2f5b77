"""A fitted detector at work on a line."""
