"""Complete configurations as functions; the docstring states data, hardware, time, result."""
