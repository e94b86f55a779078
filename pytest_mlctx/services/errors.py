"""ServiceError, for mistakes that the user can correct."""


class ServiceError(Exception):
    """A service cannot do what its configuration says, and the user can mend it: one sentence says how."""
