"""Query parameters become a validated request, as bodies do in ``body``."""

import logging
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request

from quire.core.errors import InvalidRequest
from quire.server.body import M, rule_of
from quire.server.schema.faults import shown

log = logging.getLogger("quire.server")


def read_query(request: Request, model: type[M]) -> M:
    """The query as ``model``, whose lists are parameters that may be given several times.

    Raises InvalidRequest. Unknown parameters are ignored with a debug line.
    """
    given = request.query_params
    values: dict[str, Any] = {}
    for name in dict.fromkeys(given):
        field = model.model_fields.get(name)
        if field is None:
            log.debug("ignored query parameter: %s", ascii(name[:40]))
            continue
        found = given.getlist(name)
        is_list = isinstance(field.default, tuple)
        if len(found) > 1 and not is_list:
            raise InvalidRequest(f"The query parameter {name} is given {len(found)} times: give it once.", param=name)
        values[name] = found if is_list else found[0]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = str(fault["loc"][0])
        message = f"The query parameter {name} is {shown(fault['input'])}: it should {rule_of(fault)}."
        raise InvalidRequest(message, param=name) from None
