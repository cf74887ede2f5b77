"""From a model file to the line: exported graphs."""
