# SPDX-License-Identifier: GPL-2.0-or-later
"""The API of the real daemon: its description, identities and permissions, concurrency, lists and events."""
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import threading

import pytest

from apilib import raw, statuses
from polderlib import DEADLINE, eventually

pytestmark = pytest.mark.scenario

VALIDATOR = "@apidevtools/swagger-parser@12"


@pytest.fixture
def description(daemon):
    return daemon.get("/v1/openapi.json")


# --- the description -------------------------------------------------------------------------------------------------

def test_description_is_valid(description, tmp_path):
    """An independent validator of OpenAPI 3.1 takes it. It comes from npm, since Debian 12 has none."""
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip("npm is not installed; test_description_keeps_the_rules checks the rules with python3-jsonschema")
    place = pathlib.Path(os.environ.get("POLDER_TEST_CACHE") or tmp_path) / "openapi-validator"
    if not (place / "node_modules/@apidevtools/swagger-parser").exists():
        place.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(place), VALIDATOR],
                              capture_output=True, text=True, timeout=5 * DEADLINE)
        if done.returncode != 0:
            pytest.skip(f"npm cannot install the validator: {done.stderr.strip().splitlines()[-1:]}")
    (place / "check.mjs").write_text("import Parser from '@apidevtools/swagger-parser';\n"
                                     "try { await Parser.validate(process.argv[2]); }\n"
                                     "catch (error) { console.error(error.message); process.exit(1); }\n")
    (tmp_path / "openapi.json").write_text(json.dumps(description))
    done = subprocess.run(["node", str(place / "check.mjs"), str(tmp_path / "openapi.json")], capture_output=True,
                          text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr


def broken(description, *path, value=None):
    """A copy in which one member is another; without a value it is gone."""
    copy = json.loads(json.dumps(description))
    target = copy
    for part in path[:-1]:
        target = target[part]
    if value is None:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return copy


def test_description_keeps_the_rules(description):
    """The rules of OpenAPI 3.1, with nothing but Debian's packages; and they find what breaks them."""
    pytest.importorskip("jsonschema")
    import openapilib
    assert openapilib.problems(description) == []
    show = ("paths", "/v1/instances/{name}", "get")
    for path, value in [(("info", "version"), None), (("openapi",), "3.0.3"), (("info", "colour"), "red"), ((*show, "responses"), {}),
                        ((*show, "responses", "default"), {}), ((*show, "responses", "600"), {"description": "x"}),
                        ((*show, "parameters", 0, "required"), False), ((*show, "parameters", 0, "in"), "body"),
                        ((*show, "parameters", 0, "name"), "other"), ((*show, "parameters", 0, "schema"), None),
                        ((*show, "operationId"), description["paths"]["/v1/instances"]["get"]["operationId"]),
                        (("paths", "v1/x"), {}), (("paths", "/v1/instances/{other}"), {"get": description["paths"][show[1]]["get"]}),
                        ((*show, "requestBody"), {"content": {}}), (("components", "schemas", "a b"), {}),
                        (("components", "schemas", "Problem"), None), (("components", "schemas", "Problem", "type"), "record")]:
        assert openapilib.problems(broken(description, *path, value=value)), (path, value)


def resolver_for(description):
    jsonschema = pytest.importorskip("jsonschema")
    resolver = jsonschema.RefResolver("", description)
    return lambda schema: jsonschema.Draft202012Validator(schema, resolver=resolver)


def test_description_schemas(description):
    """Each schema is one, and each reference leads somewhere."""
    jsonschema = pytest.importorskip("jsonschema")
    schemas = description["components"]["schemas"]
    for name, schema in schemas.items():
        jsonschema.Draft202012Validator.check_schema(schema)
    def walk(value):
        if isinstance(value, dict):
            if "$ref" in value:
                target = description
                for part in value["$ref"].removeprefix("#/").split("/"):
                    target = target[part]
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)
    walk(description)
    identifiers = [row["operationId"] for methods in description["paths"].values() for row in methods.values()]
    assert len(identifiers) == len(set(identifiers)) > 35


def test_replies_match_the_description(daemon, description):
    """What the server sends is what it says that it sends."""
    validator = resolver_for(description)
    daemon.create("web-1", start=True, labels={"run": "delay=1h"})
    daemon.request("GET", "/v1/instances/none")
    checked = 0
    for path, methods in description["paths"].items():
        row = methods.get("get")
        content = row and row["responses"].get("200", {}).get("content", {}).get("application/json", {})
        if not content or "schema" not in content or "{id}" in path or path.endswith("/wait"):
            continue
        reply = daemon.request("GET", path.replace("{name}", "web-1").replace("{number}", "1"))
        if path.startswith("/v1/images/{name}"):
            assert reply.status == 404
            content = row["responses"]["default"]["content"]["application/problem+json"]
        else:
            assert reply.status == 200, (path, reply)
        validator(content["schema"]).validate(reply.json)
        checked += 1
    assert checked >= 10
    operation = daemon.act("web-1", "stop")
    validator({"$ref": "#/components/schemas/Operation"}).validate(operation)
    problem = daemon.problem(409, "POST", "/v1/instances/web-1/pause?wait=30s")
    validator({"$ref": "#/components/schemas/Problem"}).validate(problem)


def test_described_requests_are_taken(daemon, description):
    """The schema of a create request takes what the server takes, and refuses what it refuses."""
    jsonschema = pytest.importorskip("jsonschema")
    row = description["paths"]["/v1/instances"]["post"]
    validator = resolver_for(description)(row["requestBody"]["content"]["application/json"]["schema"])
    good = {"name": "web-1", "spec": {"kind": "fake", "memory": 64 << 20, "labels": {"a": "b"}}}
    for body, fits in [(good, True), ({"spec": {"unknown": 1}}, False), ({"spec": {"memory": []}}, False),
                       ({"other": 1, "spec": {}}, False), ({"spec": {"kind": "banana"}}, False)]:
        reply = daemon.request("POST", "/v1/instances?dry_run=true", body)
        assert (reply.status == 200) == fits, (body, reply)
        errors = [error for error in validator.iter_errors(body) if error.validator != "required"]
        assert (not errors) == fits, (body, errors)


# --- who asks -----------------------------------------------------------------------------------------------------------

def test_readers_change_nothing(daemon, description):
    """Each route refuses over the readers' socket what a reader may not (A25, A105)."""
    daemon.create("web-1", start=True, labels={"run": "delay=1h"})
    reader = daemon.client(reader=True)
    before = daemon.instance("web-1")
    refused = 0
    for path, methods in description["paths"].items():
        for method, row in methods.items():
            if row["x-permission"] == "view":
                continue
            target = path.replace("{name}", "web-1").replace("{id}", "0" * 36)
            reply = reader.request(method.upper(), target, {} if method in ("post", "patch") else None)
            assert reply.status == 403 and reply.code == "forbidden", (method, path, reply)
            refused += 1
    assert refused >= 25
    assert daemon.instance("web-1") == before
    assert reader.request("GET", "/v1/instances").status == 200


def test_readers_are_not_told_what_a_check_found(daemon):
    """It names what lies open on the host."""
    reply = daemon.request("POST", "/v1/fsck?wait=60s", {"follow": True})
    assert reply.status == 200 and reply.json["result"]["clean"] in (True, False), reply
    path = f"/v1/operations/{reply.json['id']}"
    assert daemon.get(path)["result"] == reply.json["result"]
    reader = daemon.client(reader=True)
    assert reader.request("GET", path).json["result"] is None
    assert [one["result"] for one in reader.request("GET", "/v1/operations?type=node.check").json["operations"]] == [None]


def test_actor_in_the_audit(daemon):
    daemon.create("web-1")
    rows = daemon.audit()
    assert rows[0]["actor"] == "root" and rows[0]["origin"] == "unix"


def test_errors_tell_nothing_inside(daemon):
    """No paths of the host or the sources, no addresses, in what a stranger provokes."""
    for method, path, body in [("GET", "/v1/instances/x", None), ("POST", "/v1/instances", {"spec": {"image": "x" * 300}}),
                               ("POST", "/v1/images", {"source": "/etc/shadow"}), ("GET", "/v1/images/none", None),
                               ("POST", "/v1/images", {"source": "file:///etc/shadow"}),
                               ("POST", "/v1/images", {"source": "docker:///etc/shadow"})]:
        text = daemon.request(method, path, body).body.decode()
        assert str(daemon.directory) not in text and ".c:" not in text and "root:" not in text


# --- many at once (A16, A18) -----------------------------------------------------------------------------------------------

def test_same_idempotency_key_in_parallel(daemon):
    def create(_):
        client = daemon.client()
        return client.request("POST", "/v1/instances?wait=30s", {"spec": {"kind": "fake"}}, {"Idempotency-Key": "k1"})
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        replies = list(pool.map(create, range(100)))
    made = {reply.json["id"] for reply in replies if reply.status in (200, 202)}
    assert len(made) == 1 and all(reply.status in (200, 202, 409) for reply in replies)
    assert len(daemon.list()) == 1


def test_client_gone_in_the_middle(daemon):
    """A change whose client vanishes happens whole, once, or not at all; its key finds it again."""
    body = json.dumps({"name": "web-1", "spec": {"kind": "fake"}}).encode()
    request = (b"POST /v1/instances?wait=30s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
               b"Idempotency-Key: gone\r\nContent-Length: %d\r\n\r\n" % len(body)) + body
    for cut in (len(request) - 1, len(request)):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(daemon.socket))
            connection.sendall(request[:cut])
    eventually(lambda: daemon.state_of("web-1"), what="the instance")
    reply = daemon.request("POST", "/v1/instances?wait=30s", body, {"Idempotency-Key": "gone"})
    assert reply.status in (200, 202), reply
    assert len(daemon.list()) == 1


def test_no_lost_update(daemon):
    """Fifty writers with If-Match: each success builds on the one before."""
    daemon.create("web-1")
    done = []
    def work(number):
        client = daemon.client()
        for _ in range(200):
            seen = client.request("GET", "/v1/instances/web-1")
            count = int(seen.json["spec"]["labels"].get("count", "0"))
            reply = client.request("PATCH", "/v1/instances/web-1?wait=30s",
                                   {"spec": {"labels": {"count": str(count + 1)}}}, {"If-Match": seen.headers["etag"]})
            assert reply.status in (200, 412), reply
            if reply.status == 200:
                done.append(number)
                return
    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert int(daemon.instance("web-1")["spec"]["labels"]["count"]) == len(done) == 20


def test_stale_and_missing_tags(daemon):
    daemon.create("web-1")
    for tag in ('"0"', "*x", "W/\"1\"", '""'):
        assert daemon.request("PATCH", "/v1/instances/web-1", {"spec": {"priority": 1}}, {"If-Match": tag}).status == 412
    assert daemon.instance("web-1")["spec"]["priority"] == 0


# --- lists -------------------------------------------------------------------------------------------------------------------

def pages(daemon, path, member, query=""):
    """All pages, each with its `continue`."""
    found, after = [], None
    while after is not None or not found:
        page = daemon.get(f"{path}?limit=2{query}" + (f"&continue={after}" if after else ""))
        found.append(page[member])
        after = page["continue"]
        if after is None:
            return found


def test_pages_of_operations(daemon):
    for name in ("a", "b", "c"):
        daemon.create(name, start=True)
    daemon.act("a", "stop")
    everything = daemon.get("/v1/operations")
    assert everything["continue"] is None
    ids = [operation["id"] for operation in everything["operations"]]
    assert [one["id"] for page in pages(daemon, "/v1/operations", "operations") for one in page] == ids
    assert all(len(page) == 2 for page in pages(daemon, "/v1/operations", "operations")[:-1])

    def shown(query):
        return daemon.get("/v1/operations?" + query)["operations"]
    stops = shown("type=instance.stop&object=a")
    assert len(stops) == 1 and stops[0]["object"] == "instances/a" and shown("object=instances/a&state=done&type=instance.stop") == stops
    assert shown("state=running") == [] and shown("type=image") == []
    assert {one["object"] for page in pages(daemon, "/v1/operations", "operations", "&object=b") for one in page} == {"instances/b"}
    for query in ("limit=-1", "limit=x", "state=nonsense", "continue=nonsense", "offset=1"):
        assert daemon.request("GET", f"/v1/operations?{query}").status == 400, query


def test_pages(daemon):
    for number in range(7):
        daemon.create(f"web-{number}")
    found, after = [], ""
    while True:
        page = daemon.get("/v1/instances?limit=3&fields=name" + (f"&continue={after}" if after else ""))
        found += [row["name"] for row in page["instances"]]
        assert all(set(row) == {"name"} for row in page["instances"])
        after = page["continue"]
        if not after:
            break
    assert found == [f"web-{number}" for number in range(7)]
    assert daemon.get("/v1/instances?continue=zzz")["instances"] == []
    for forged in ("..%2f", "%ff", "x" * 100):
        assert daemon.request("GET", f"/v1/instances?continue={forged}").status == 400


def test_filters_are_literal(daemon):
    daemon.create("web-1", start=True, labels={"run": "delay=1h"})
    daemon.create("db-1")
    names = lambda query: [row["name"] for row in daemon.list(query)]
    assert names("?name=we") == ["web-1"] and names("?state=running") == ["web-1"] and names("?kind=fake") == ["db-1", "web-1"]
    for pattern in ("%25", "_eb-1", "*", "w.*", "'%20OR%20'1'%3D'1", "(a%2B)%2B%24"):
        assert names(f"?name={pattern}") == [] and names(f"?label={pattern}") == []
    for query in ("?state=banana", "?kind=banana"):
        assert daemon.request("GET", "/v1/instances" + query).status in (200, 400)


# --- events ------------------------------------------------------------------------------------------------------------------

def read_events(daemon, path, wanted):
    """The first `wanted` events as (id, type)."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(str(daemon.socket))
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        text = b""
        while text.count(b"\ndata: ") < wanted:
            piece = connection.recv(65536)
            assert piece, text
            text += piece
    blocks = [block for block in text.split(b"\r\n\r\n", 1)[1].decode().split("\n\n") if "data: " in block]
    lines = [dict(line.split(": ", 1) for line in block.splitlines() if ": " in line) for block in blocks]
    return [(int(line["id"]), line["event"]) for line in lines[:wanted] if "id" in line]


def test_events_resume(daemon):
    daemon.create("web-1", start=True, labels={"run": "delay=1h"})
    daemon.act("web-1", "stop")
    everything = read_events(daemon, "/v1/events?since=0", 6)
    assert [identifier for identifier, _ in everything] == sorted({identifier for identifier, _ in everything})
    middle = everything[2][0]
    assert read_events(daemon, f"/v1/events?since={middle}", 3) == everything[3:6]
    stopped = [kind for _, kind in read_events(daemon, "/v1/events?since=0&type=instance.stopped", 1)]
    assert stopped == ["instance.stopped"]
    for since in ("x", "-1", "1.5", "99999999999999999999999"):
        assert daemon.request("GET", f"/v1/events?since={since}").status == 400


def test_deaf_event_clients_harm_nobody(daemon):
    """Clients that never read cost a bounded ring, not memory each (A20)."""
    deaf = []
    for _ in range(50):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(daemon.socket))
        connection.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        deaf.append(connection)
    before = daemon.resident()
    daemon.create("web-1")
    for _ in range(40):
        daemon.act("web-1", "start")
        daemon.act("web-1", "stop")
    assert daemon.resident() - before < 32 << 20
    for connection in deaf:
        connection.close()
    eventually(lambda: daemon.descriptors() < 60, what="the descriptors to be closed")


def test_nothing_leaks(make_daemon):
    """A thousand refusals later: the same descriptors, about the same memory. What a sanitizer keeps of freed memory is
    no leak."""
    daemon = make_daemon(environment={"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=1:"
                                                      "quarantine_size_mb=2:thread_local_quarantine_size_kb=64"}).start()
    daemon.create("web-1")
    def provoke():
        for path in ("/v1/instances/none", "/v1/instances/%00", "/v1/instances?limit=-1", "/nothing"):
            daemon.request("GET", path)
        daemon.request("POST", "/v1/instances", b"{" * 5000)
        daemon.request("PATCH", "/v1/instances/web-1", {"spec": {"memory": "lots"}})
        assert statuses(raw(daemon.socket, b"bad\r\n\r\n")) == [400]
    for _ in range(20):
        provoke()
    descriptors, resident = daemon.descriptors(), daemon.resident()
    for _ in range(150):
        provoke()
    eventually(lambda: daemon.descriptors() <= descriptors, what="the descriptors to be closed")
    assert daemon.resident() - resident < 16 << 20


# --- metrics -------------------------------------------------------------------------------------------------------------

SAMPLE = re.compile(r'([a-z_:][a-z0-9_:]*)(?:\{([a-z_]+="(?:[^"\\\n]|\\[n"\\])*"(?:,[a-z_]+="(?:[^"\\\n]|\\[n"\\])*")*)\})? (\d+(?:\.\d+)?)')


def metrics(daemon):
    """Samples by name and labels, of a text that is read strictly: each family has its type and its help, in one place."""
    reply = daemon.expect(200, "GET", "/metrics")
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = reply.body.decode()
    assert text.endswith("\n")
    types, helps, samples, family = {}, {}, {}, None
    for line in text.splitlines():
        words = line.split(" ", 3)
        if words[0] == "#":
            place = {"TYPE": types, "HELP": helps}[words[1]]
            assert words[2] not in place, f"{line}: told twice"
            assert words[2] == family or words[2] not in {**types, **helps}, f"{line}: not in one place"
            family = words[2]
            place[family] = words[3]
            continue
        match = SAMPLE.fullmatch(line)
        assert match and match[1] == family and family in types and family in helps, line
        assert types[family] in ("gauge", "counter") and family.startswith("polder_"), line
        assert (types[family] == "counter") == family.endswith("_total"), line
        assert match.group(1, 2) not in samples, f"{line}: told twice"
        samples[match.group(1, 2)] = float(match[3])
    assert set(types) == set(helps)
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError:
        return samples
    read = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for one in text_string_to_metric_families(text) for sample in one.samples}
    assert len(read) == len(samples) and sorted(read.values()) == sorted(samples.values())
    return samples


def test_metrics(daemon):
    """They are in Prometheus' text format, and their values are what the instances come to."""
    before = metrics(daemon)
    for number in range(3):
        daemon.create(f"running{number}", start=True, cpus=1.5, memory="64MiB")
    daemon.create("stopped", cpus=4, memory="1GiB")
    daemon.create("deleted")
    daemon.delete("deleted")
    daemon.act("running2", "pause")
    after = metrics(daemon)

    def grown(name, labels=None):
        return after[name, labels] - before[name, labels]
    states = {instance["status"]["state"] for instance in daemon.list("?deleted=true")}
    assert states == {"running", "paused", "created", "deleted"}
    for state in daemon.get("/v1/lifecycle")["states"]:
        label = f'state="{state if isinstance(state, str) else state["name"]}"'
        assert grown("polder_instances", label) == {'state="running"': 2}.get(label, label.split('"')[1] in states), label
    assert grown("polder_promised_cpus") == 4.5
    assert grown("polder_promised_memory_bytes") == 3 * 64 << 20
    assert after["polder_queue_length", None] == 0
    assert grown("polder_store_commits_total") >= 5 and after["polder_store_fsync_seconds", None] < 60
    assert grown("polder_http_requests_total") == 8
    assert after["polder_http_connections", None] >= 1
