"""Which part of a tensor a rank holds. Pure arithmetic on indices: no tensor is touched here."""

from dataclasses import dataclass

from quire.core.errors import ConfigError


@dataclass(frozen=True)
class Group:
    """This process's place among ``size`` tensor-parallel ranks."""

    rank: int = 0
    size: int = 1


def span(extent: int, units: int, group: Group) -> slice:
    """The rows of ``extent`` that ``group.rank`` holds when they come in ``units`` indivisible units of equal size.

    A unit is a row for a plain linear and a head for a projection. With fewer units than ranks each unit is held by
    size / units neighbouring ranks (grouped-query keys and values under wide tensor parallelism). Raises ConfigError
    when neither count divides the other.
    """
    assert extent % units == 0, f"{extent} rows do not come in {units} units"
    rows = extent // units
    if units % group.size == 0:
        mine = units // group.size
        return slice(group.rank * mine * rows, (group.rank + 1) * mine * rows)
    if group.size % units == 0:
        unit = group.rank // (group.size // units)
        return slice(unit * rows, (unit + 1) * rows)
    raise ConfigError(
        f"tensor_parallel_size is {group.size}, but the model has a layer of {units} units that cannot be shared "
        "evenly among so many: choose a size that divides it, or a multiple of it."
    )
