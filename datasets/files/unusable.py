"""What of a data set cannot be used: the first stops the start, or all are left out and listed."""

from typing import Literal

from errors import UserError

OnError = Literal["stop", "skip"]


class Unusable:
    """Takes the errors about single files and entries: with on_error "stop" it raises the first, else it lists them."""

    def __init__(self, on_error: OnError) -> None:
        self.stops = on_error == "stop"
        self.errors: list[UserError] = []

    def add(self, error: UserError) -> None:
        """Report something unusable, which is then left out. Raises it with on_error "stop"."""
        if self.stops:
            raise error
        self.errors.append(error)

    def more(self, others: int, text: str) -> str:
        """` (TEXT)` with the number of `others` in it, for the message about the first; "" if all are listed."""
        return f" ({text.format(others)})" if self.stops and others else ""
