"""How compute threads wait for each other: set before torch starts them, since it is read once."""

import os
from collections.abc import Mapping, MutableMapping
from types import MappingProxyType

_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        # Threads that spin while they wait starve those that work as soon as the machine has other work: a layer took
        # 800 ms instead of 17. Threads that sleep at once are woken a few hundred times a step. A microsecond or so of
        # spinning, then sleep: 12 % faster than sleeping at once on an idle machine, 4 % slower on a shared one.
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "300",
    }
)


def settle(environment: MutableMapping[str, str] = os.environ) -> MutableMapping[str, str]:
    """Put the settings that are not there yet into ``environment``, and return it."""
    for name, value in _ENVIRONMENT.items():
        environment.setdefault(name, value)
    return environment
