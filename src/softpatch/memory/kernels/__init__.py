"""Code that is compiled at its first call on a CPU. Imported where it is called: numba takes half a second."""
