"""Everything this package raises on purpose.

HybridSearchError
├── InvalidInputError          change the argument it names
├── NotFoundError              name something that exists
├── ConflictError              the stored state forbids it; the message says the way out
├── ModelUnavailableError      repair or download the model it names
├── StoreUnavailableError      the store cannot take or give it now
├── BusyError                  try again after the time it names
└── ForbiddenError             use another token, or ask for less

Messages are written for the model that reads them: what failed, then what to try.
"""


class HybridSearchError(Exception):
    """A failure that was foreseen and whose text is safe to show."""


class InvalidInputError(HybridSearchError):
    """An argument is out of its limits or has the wrong form."""


class NotFoundError(HybridSearchError):
    """The named collection or document does not exist."""


class ConflictError(HybridSearchError):
    """What is stored already forbids the request."""


class ModelUnavailableError(HybridSearchError):
    """A model's file is missing, altered or cannot be loaded."""


class StoreUnavailableError(HybridSearchError):
    """The store is locked, full, damaged or out of reach."""


class BusyError(HybridSearchError):
    """There is more to do than the limits allow; later it will work."""

    def __init__(self, reason: str, retry_seconds: int) -> None:
        super().__init__(f"{reason} Busy: retry in {retry_seconds} s.")
        self.retry_seconds = retry_seconds
        """When to try again."""


class ForbiddenError(HybridSearchError):
    """The caller's token does not allow it."""
