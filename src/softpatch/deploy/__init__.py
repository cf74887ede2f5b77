"""Models at work: what runs beside a line, apart from the folders that they learned from."""
