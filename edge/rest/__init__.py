"""The HTTP door: JSON bodies, SSE streams, error objects."""
