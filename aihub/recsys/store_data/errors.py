"""What can be wrong with a shop's data."""

from aihub.errors import ConflictError, StorageUnavailableError


class MappingMismatchError(ConflictError):
    """The mapping names tables or columns that the database does not have."""

    code = "mapping_mismatch"


class NotEnoughDataError(ConflictError):
    """The store has too few events to learn from."""

    code = "not_enough_data"


class TooMuchDataError(ConflictError):
    """The store has more events than the limit allows."""

    code = "too_much_data"


class ShopUnavailableError(StorageUnavailableError):
    """The shop's database does not answer, or not in time."""

    code = "shop_unavailable"
