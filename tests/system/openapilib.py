# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules of the OpenAPI Specification 3.1.0, as far as a description of HTTP routes can break them: a schema of the document
(sections 4.8.1 to 4.8.24, written from the text), and what it demands beyond a schema. Debian 12 has no package that knows
them; schemas within are checked against the meta-schema of JSON Schema 2020-12, which OpenAPI 3.1 takes over (4.8.24)."""
import re

import jsonschema

DIALECT = "https://json-schema.org/draft/2020-12/schema"
STYLES = {"path": ["matrix", "label", "simple"], "query": ["form", "spaceDelimited", "pipeDelimited", "deepObject"],
          "header": ["simple"], "cookie": ["form"]}
METHODS = ["get", "put", "post", "delete", "options", "head", "patch", "trace"]


def ref(name):
    return {"$ref": f"#/$defs/{name}"}


def closed(properties, required=(), **more):
    """An object of the specification: fixed fields, and extensions that begin with x- (4.9)."""
    return {"type": "object", "properties": properties, "required": list(required), "patternProperties": {"^x-": {}},
            "additionalProperties": False, **more}


def of(schema):
    return {"type": "object", "additionalProperties": schema}


TEXT, FLAG, URI = {"type": "string"}, {"type": "boolean"}, {"type": "string", "minLength": 1}
TEXTS = {"type": "array", "items": TEXT}
CONTENT = {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": ref("media-type")}
# 4.8.12.2: what a parameter and a header share; one of schema and content.
SHAPE = {"description": TEXT, "required": FLAG, "deprecated": FLAG, "style": TEXT, "explode": FLAG, "allowReserved": FLAG,
         "schema": ref("schema"), "example": {}, "examples": of(ref("example")), "content": CONTENT}
ONE_SHAPE = {"oneOf": [{"required": ["schema"]}, {"required": ["content"]}]}

DOCUMENT = {
    "$schema": DIALECT,
    **closed({"openapi": {"type": "string", "pattern": r"^3\.1\.\d+(-.+)?$"}, "info": ref("info"), "jsonSchemaDialect": URI,
              "servers": {"type": "array", "items": ref("server")}, "paths": ref("paths"), "webhooks": of(ref("path-item")),
              "components": ref("components"), "security": {"type": "array", "items": of(TEXTS)},
              "tags": {"type": "array", "items": ref("tag")}, "externalDocs": ref("external")},
             ["openapi", "info"], anyOf=[{"required": [one]} for one in ("paths", "components", "webhooks")]),
    "$defs": {
        "info": closed({"title": TEXT, "summary": TEXT, "description": TEXT, "termsOfService": URI, "version": TEXT,
                        "contact": closed({"name": TEXT, "url": URI, "email": TEXT}),
                        "license": closed({"name": TEXT, "identifier": TEXT, "url": URI}, ["name"],
                                          **{"not": {"required": ["identifier", "url"]}})}, ["title", "version"]),
        "server": closed({"url": TEXT, "description": TEXT, "variables": of(closed(
            {"enum": {**TEXTS, "minItems": 1}, "default": TEXT, "description": TEXT}, ["default"]))}, ["url"]),
        "external": closed({"description": TEXT, "url": URI}, ["url"]),
        "tag": closed({"name": TEXT, "description": TEXT, "externalDocs": ref("external")}, ["name"]),
        "paths": {"type": "object", "patternProperties": {"^/": ref("path-item"), "^x-": {}}, "additionalProperties": False},
        "path-item": closed({"$ref": URI, "summary": TEXT, "description": TEXT, "servers": {"type": "array", "items": ref("server")},
                             "parameters": ref("parameters"), **{method: ref("operation") for method in METHODS}}),
        "operation": closed({"tags": TEXTS, "summary": TEXT, "description": TEXT, "externalDocs": ref("external"), "operationId": TEXT,
                             "parameters": ref("parameters"), "requestBody": {"if": ref("reference"), "else": ref("body")},
                             "responses": ref("responses"), "callbacks": of({}), "deprecated": FLAG,
                             "security": {"type": "array", "items": of(TEXTS)}, "servers": {"type": "array", "items": ref("server")}}),
        "parameters": {"type": "array", "uniqueItems": True, "items": {"if": ref("reference"), "else": ref("parameter")}},
        "parameter": {"allOf": [
            closed({"name": TEXT, "in": {"enum": list(STYLES)}, "allowEmptyValue": FLAG, **SHAPE}, ["name", "in"], **ONE_SHAPE),
            *({"if": {"properties": {"in": {"const": place}}}, "then": {"properties": {"style": {"enum": styles}}}}
              for place, styles in STYLES.items()),
            {"if": {"properties": {"in": {"const": "path"}}}, "then": {"required": ["required"], "properties": {"required": {"const": True}}}},
            {"if": {"required": ["allowEmptyValue"]}, "then": {"properties": {"in": {"const": "query"}}}}]},
        "header": closed({**SHAPE, "style": {"const": "simple"}}, **ONE_SHAPE),
        "body": closed({"description": TEXT, "content": of(ref("media-type")), "required": FLAG}, ["content"]),
        "media-type": closed({"schema": ref("schema"), "example": {}, "examples": of(ref("example")), "encoding": of({})}),
        "responses": {"type": "object", "minProperties": 1, "additionalProperties": False, "patternProperties": {
            r"^([1-5][0-9][0-9]|[1-5]XX|default)$": {"if": ref("reference"), "else": ref("response")}, "^x-": {}}},
        "response": closed({"description": TEXT, "headers": of({"if": ref("reference"), "else": ref("header")}),
                            "content": of(ref("media-type")), "links": of({})}, ["description"]),
        "example": {"if": ref("reference"), "else": closed({"summary": TEXT, "description": TEXT, "value": {}, "externalValue": URI},
                                                           **{"not": {"required": ["value", "externalValue"]}})},
        "components": closed({name: {"type": "object", "propertyNames": {"pattern": r"^[a-zA-Z0-9._-]+$"},
                                     "additionalProperties": {"if": ref("reference"), "else": schema}}
                              for name, schema in {"schemas": ref("schema"), "responses": ref("response"), "parameters": ref("parameter"),
                                                   "examples": ref("example"), "requestBodies": ref("body"), "headers": ref("header"),
                                                   "securitySchemes": {"type": "object", "required": ["type"]}, "links": {},
                                                   "callbacks": {}, "pathItems": ref("path-item")}.items()}),
        "reference": {"type": "object", "required": ["$ref"]},
        "schema": {"$ref": DIALECT},
    },
}


def target(document, reference):
    """What a reference within the document leads to."""
    found = document
    assert reference.startswith("#/"), reference
    for part in reference[2:].split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def references(value):
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def operation_problems(document, path, method, item, operation):
    """4.8.8.1, 4.8.10, 4.8.12: parameters of the path, each once, and none that is not there."""
    where = f"{method} {path}"
    given = [target(document, one["$ref"]) if "$ref" in one else one
             for one in item.get("parameters", []) + operation.get("parameters", [])]
    keys = [(one["name"], one["in"]) for one in given]
    if len(keys) != len(set(keys)):
        yield f"{where}: a parameter is there twice"
    named = {name for name, place in keys if place == "path"}
    for name in named ^ set(re.findall(r"{([^}]*)}", path)):
        yield f"{where}: '{name}' is in the path or among its parameters, not in both"
    if method in ("get", "head", "delete", "trace") and "requestBody" in operation:
        yield f"{where}: a body has no meaning there (4.8.10.1)"
    for name, place in keys:
        if place == "header" and name.lower() in ("accept", "content-type", "authorization"):
            yield f"{where}: the header '{name}' is ignored there (4.8.12.1)"


def problems(document):
    """Sentences, none if the document is as OpenAPI 3.1 demands."""
    found = [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:300]}"
             for error in jsonschema.Draft202012Validator(DOCUMENT).iter_errors(document)]
    if found:
        return found
    for reference in references(document):
        try:
            target(document, reference)
        except (KeyError, AssertionError, TypeError):
            found.append(f"{reference} leads nowhere")
    paths = document.get("paths", {})
    shapes = [re.sub(r"{[^}]*}", "{}", path) for path in paths]
    found += [f"two paths differ in the names of their parameters alone: {shape}" for shape in set(shapes) if shapes.count(shape) > 1]
    operations = [(path, method, item, item[method]) for path, item in paths.items() for method in METHODS if method in item]
    identifiers = [operation["operationId"] for *_, operation in operations if "operationId" in operation]
    found += [f"operationId '{one}' is there twice" for one in set(identifiers) if identifiers.count(one) > 1]
    for path, method, item, operation in operations:
        found += operation_problems(document, path, method, item, operation)
    schemes = document.get("components", {}).get("securitySchemes", {})
    for wanted in [document.get("security", []), *(operation.get("security", []) for *_, operation in operations)]:
        found += [f"security scheme '{name}' is not there" for one in wanted for name in one if name not in schemes]
    return found
