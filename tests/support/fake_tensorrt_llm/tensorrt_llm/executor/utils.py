class RequestError(RuntimeError):
    """One request has failed."""
