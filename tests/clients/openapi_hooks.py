"""What schemathesis needs to know of this server beyond its schema: a model's name, and how to make it go on.

Law: a wrong request stays wrong. Only a name that might have been right is replaced.
"""

import urllib.request

import schemathesis

UNDO = {"/pause": "/resume", "/pause_generation": "/continue_generation", "/sleep": "/wake_up"}


@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        body["model"] = "quire"
    return body


@schemathesis.hook
def map_path_parameters(context, parameters):
    if context.operation.path == "/v1/models/{id}" and parameters:
        parameters["id"] = "quire"
    return parameters


@schemathesis.hook
def after_call(context, case, response):
    path = case.operation.path
    if path in UNDO and response.status_code == 200:
        address = response.request.url.partition(path)[0] + UNDO[path]
        urllib.request.urlopen(urllib.request.Request(address, method="POST"), timeout=30)
