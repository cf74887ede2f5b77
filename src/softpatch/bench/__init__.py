"""The benchmark: tasks become rows, rows become the paper's tables and figures."""
