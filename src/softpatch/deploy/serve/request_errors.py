"""What a client is told that is not answered: a status and one sentence."""


class RequestError(Exception):
    """Ends a request with a `status` and a sentence; `retry_after` seconds are when to try again, if that may help.

    With `closes` the connection ends too: what is still to come of the request is not read.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None, closes: bool = False) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after, self.closes = status, message, retry_after, closes

    @property
    def headers(self) -> dict[str, str]:
        """The headers that say the same."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.closes:
            headers["Connection"] = "close"
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers
