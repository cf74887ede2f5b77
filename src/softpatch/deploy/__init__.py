"""A fitted detector at work on a line: exported, behind HTTP, or watching a folder."""
