// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <errno.h>
#include <string.h>

#include <json-c/json.h>

#include "base/text.h"
#include "model/image.h"
#include "model/instance.h"

static int decode(const char *text, unsigned flags, struct instance_spec *spec, struct error *error) {
    _cleanup_json_ struct json_object *json = NULL;

    assert_int_equal(json_parse(text, strlen(text), &json, NULL), 0);
    return table_decode(&instance_spec_table, json, flags, spec, error);
}

static char *emit(const struct instance_spec *spec) {
    struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);
    char *text;

    emit_object(&emitter);
    table_emit(&instance_spec_table, spec, &emitter);
    emit_object_end(&emitter);
    assert_int_equal(buffer_take(&out, &text), 0);
    return text;
}

/* A value other than the default for each field of the spec: a new field gets its row here. */
struct sample {
    const char *field;
    const char *json;
    const char *kind; /* one that takes it */
    const char *with; /* what it needs beside it */
};

static const struct sample samples[] = {
    { "kind", "\"container\"", "container" },
    { "image", "\"docker://host:5000/repo/name:tag\"", "container" },
    { "cpus", "1.5", "vm" },
    { "memory", "1073741824", "vm" },
    { "disk", "4294967296", "vm" },
    { "command", "[\"sh\",\"-c\",\"echo a\\necho b\"]", "container" },
    { "entrypoint", "[\"/bin/x\"]", "microvm" },
    { "environment", "{\"A\":\"b\",\"C\":\"d=e\"}", "container" },
    { "labels", "{\"app\":\"web\"}", "vm" },
    { "node_labels", "[\"zone=a\",\"disk!=hdd\"]", "vm" },
    { "features", "[\"avx2\"]", "container" },
    { "tolerations", "[\"maintenance\",\"gpu=yes\"]", "vm" },
    { "affinity", "[\"app=db:zone\"]", "vm" },
    { "anti_affinity", "[\"app=web\",\"name=web-1\"]", "vm" },
    { "spread", "[\"app=web:rack\"]", "vm" },
    { "user", "\"1000:users\"", "container" },
    { "working_directory", "\"/srv\"", "microvm" },
    { "hostname", "\"web-1.example\"", "vm" },
    { "tty", "true", "container" },
    { "stdin_open", "true", "container" },
    { "read_only", "true", "container" },
    { "remove", "true", "vm" },
    { "mounts", "[{\"type\":\"bind\",\"source\":\"/srv/x\",\"target\":\"/x\",\"read_only\":true,\"size\":0}]",
      "vm" },
    { "network", "\"none\"", "vm" },
    { "publish", "[{\"protocol\":\"udp\",\"host_address\":\"127.0.0.1\",\"host_port\":53,\"port\":53}]",
      "vm" },
    { "restart", "\"on-failure\"", "vm" },
    { "restart_limit", "3", "vm", ",\"restart\":\"on-failure\"" },
    { "priority", "-100", "vm" },
    { "duration", "\"20m\"", "vm" },
    { "allocation", "\"fixed\"", "vm" },
    { "cpu_reservation", "0.5", "vm", ",\"allocation\":\"hybrid\"" },
    { "cpu_limit", "2", "vm" },
    { "memory_reservation", "67108864", "vm", ",\"allocation\":\"hybrid\"" },
    { "memory_limit", "1073741824", "container" },
    { "cpuset", "\"0-3,8\"", "vm" },
    { "weight_alpha", "0.5", "vm" },
    { "weight_beta", "-10", "vm" },
    { "control_rate", "10", "vm" },
    { "timeout", "\"1h\"", "vm" },
    { "stop_timeout", "\"30s\"", "vm" },
    { "stop_signal", "\"SIGRTMIN+3\"", "container" },
    { "pids", "100", "container" },
    { "io_read", "1048576", "vm" },
    { "io_write", "1048576", "vm" },
    { "network_in", "1048576", "vm" },
    { "network_out", "1048576", "vm" },
    { "log_size", "1048576", "vm" },
    { "firmware", "\"uefi\"", "vm" },
    { "cdrom", "\"netinst\"", "vm" },
    { "graphics", "true", "vm" },
    { "user_data", "\"#cloud-config\\nusers: []\\n\"", "vm" },
    { "ssh_keys", "[\"ssh-ed25519 AAAA me@host\"]", "vm" },
    { "description", "\"für Tests\"", "vm" },
};

static void test_every_field_has_a_sample(void **state) {
    assert_int_equal(ELEMENTS(samples), instance_spec_table.count);
    for (size_t i = 0; i < instance_spec_table.count; i++) {
        const struct field *field = &instance_spec_table.fields[i];

        assert_string_equal(samples[i].field, field->name);
        assert_non_null(field->help);
        assert_true(text_ends(field->help, "."));
    }
}

/* In, out and in again; and the sample is not the default. */
static void test_every_field_round_trips(void **state) {
    for (size_t i = 0; i < ELEMENTS(samples); i++) {
        const struct field *field = table_find(&instance_spec_table, samples[i].field);
        _cleanup_free_ char *json = text_format("{\"%s\":%s%s}", samples[i].field, samples[i].json,
                                                strcmp(samples[i].field, "image") ? ",\"image\":\"x\"" : "");
        _cleanup_free_ char *part = text_format("\"%s\":%s", samples[i].field, samples[i].json);
        _cleanup_free_ char *text = NULL;
        struct instance_spec spec = { 0 };
        struct instance_spec again = { 0 };

        assert_int_equal(decode(json, DECODE_REPLACE, &spec, NULL), 0);
        assert_false(field_is_default(field, &spec));
        text = emit(&spec);
        if (!strstr(text, part))
            fail_msg("%s is not in %s", part, text);
        assert_int_equal(decode(text, DECODE_REPLACE, &again, NULL), 0);
        assert_true(table_equal(&instance_spec_table, &spec, &again));
        table_done(&instance_spec_table, &spec);
        table_done(&instance_spec_table, &again);
    }
}

static const char *const wrong_types[] = { "true", "{\"x\":1}", "[[1]]", "1.5", "\"\\u0001\"" };

/* Every field refuses what is of no type of its own; which of the five forms a type takes is little. */
static void test_every_field_refuses_wrong_types(void **state) {
    for (size_t i = 0; i < instance_spec_table.count; i++) {
        const struct field *field = &instance_spec_table.fields[i];

        for (size_t j = 0; j < ELEMENTS(wrong_types); j++) {
            _cleanup_free_ char *json = text_format("{\"%s\":%s}", field->name, wrong_types[j]);
            _cleanup_error_ struct error error = ERROR_INIT;
            struct instance_spec spec = { .image = strdup("x") };
            bool fits = (field->type == FIELD_BOOLEAN && j == 0) || (field->type == FIELD_CPUS && j == 3) ||
                        (field->type == FIELD_DURATION && j == 3);

            if (!fits && decode(json, DECODE_MERGE, &spec, &error) >= 0)
                fail_msg("%s was taken", json);
            if (!fits && !text_starts(error.parameters[0], field->name))
                fail_msg("%s: the error names '%s'", json, error.parameters[0]);
            table_done(&instance_spec_table, &spec);
        }
    }
}

static void test_every_field_takes_null(void **state) {
    for (size_t i = 0; i < instance_spec_table.count; i++) {
        const struct field *field = &instance_spec_table.fields[i];
        _cleanup_free_ char *json = text_format("{\"image\":\"x\",\"%s\":null}", field->name);
        struct instance_spec spec = { 0 };
        int r = decode(json, DECODE_REPLACE, &spec, NULL);

        assert_int_equal(r, field->required ? -EINVAL : 0);
        if (r == 0)
            assert_true(field_is_default(field, &spec));
        table_done(&instance_spec_table, &spec);
    }
}

static void test_every_number_has_limits(void **state) {
    static const char *const absurd[] = { "-9223372036854775808", "18446744073709551615" };

    for (size_t i = 0; i < instance_spec_table.count; i++) {
        const struct field *field = &instance_spec_table.fields[i];

        if (field->type != FIELD_INTEGER && field->type != FIELD_SIZE && field->type != FIELD_CPUS &&
            field->type != FIELD_DURATION)
            continue;
        for (size_t j = 0; j < ELEMENTS(absurd); j++) {
            _cleanup_free_ char *json = text_format("{\"image\":\"x\",\"%s\":%s}", field->name, absurd[j]);
            _cleanup_error_ struct error error = ERROR_INIT;
            struct instance_spec spec = { 0 };

            assert_int_equal(decode(json, DECODE_REPLACE, &spec, &error), -ERANGE);
            assert_int_equal(error.code, ERROR_OUT_OF_RANGE);
            assert_string_equal(error.parameters[0], field->name);
        }
    }
}

/* On each kind an option works or is refused with the kinds that take it. */
static void test_kinds(void **state) {
    for (size_t i = 0; i < ELEMENTS(samples); i++)
        for (int kind = KIND_CONTAINER; kind <= KIND_VM; kind++) {
            const struct field *field = table_find(&instance_spec_table, samples[i].field);
            bool takes = field->kinds == 0 || field->kinds & (1U << kind);
            _cleanup_free_ char *json =
                text_format("{\"%s\":%s%s%s}", samples[i].field, samples[i].json,
                            strcmp(samples[i].field, "image") ? ",\"image\":\"x\"" : "",
                            samples[i].with ? samples[i].with : "");
            _cleanup_error_ struct error error = ERROR_INIT;
            struct instance_spec spec = { 0 };
            int r;

            assert_int_equal(decode(json, DECODE_REPLACE, &spec, NULL), 0);
            r = instance_spec_validate(&spec, (enum kind) kind, &error);
            if (takes)
                assert_int_equal(r, 0);
            else
                assert_int_equal(error.code, ERROR_NOT_SUPPORTED);
            if (!takes)
                assert_string_equal(error.parameters[1], field->name);
            assert_int_equal(instance_spec_validate(&spec, KIND_AUTO, NULL), 0);
            table_done(&instance_spec_table, &spec);
        }
}

struct contradiction {
    const char *json;
    enum kind kind;
    enum error_code code;
    const char *field;
};

static void test_contradictions(void **state) {
    static const struct contradiction rows[] = {
        { "{\"image\":\"x\",\"network\":\"none\",\"publish\":[{\"host_port\":1,\"port\":2}]}", KIND_CONTAINER,
          ERROR_BAD_VALUE, "publish" },
        { "{\"image\":\"x\",\"publish\":[{\"host_port\":1,\"port\":2},{\"host_port\":1,\"port\":3}]}",
          KIND_CONTAINER, ERROR_BAD_VALUE, "publish" },
        { "{\"image\":\"x\",\"publish\":[{\"host_port\":1,\"port\":2,\"host_address\":\"127.0.0.1\"},"
          "{\"host_port\":1,\"port\":3}]}",
          KIND_CONTAINER, ERROR_BAD_VALUE, "publish" },
        { "{\"image\":\"x\",\"mounts\":[{\"target\":\"/x\"}]}", KIND_CONTAINER, ERROR_BAD_VALUE,
          "mounts[0]" },
        { "{\"image\":\"x\",\"mounts\":[{\"type\":\"tmpfs\",\"source\":\"/y\",\"target\":\"/x\"}]}",
          KIND_CONTAINER, ERROR_BAD_VALUE, "mounts[0]" },
        { "{\"image\":\"x\",\"mounts\":[{\"source\":\"/y\",\"target\":\"/x\",\"size\":4096}]}",
          KIND_CONTAINER, ERROR_BAD_VALUE, "mounts[0]" },
        { "{\"image\":\"x\",\"mounts\":[{\"source\":\"/y\",\"target\":\"/x\"},{\"source\":\"/"
          "z\",\"target\":\"//x/\"}]}",
          KIND_CONTAINER, ERROR_BAD_VALUE, "mounts" },
        { "{\"image\":\"x\",\"mounts\":[{\"type\":\"tmpfs\",\"target\":\"/x\"}]}", KIND_VM,
          ERROR_NOT_SUPPORTED, "vm" },
        { "{\"image\":\"x\",\"restart_limit\":3}", KIND_CONTAINER, ERROR_BAD_VALUE, "restart_limit" },
        { "{\"image\":\"x\",\"remove\":true,\"restart\":\"always\"}", KIND_CONTAINER, ERROR_BAD_VALUE,
          "remove" },
        { "{\"image\":\"x\",\"cpu_reservation\":0.5}", KIND_VM, ERROR_BAD_VALUE, "cpu_reservation" },
        { "{\"image\":\"x\",\"memory_reservation\":\"64M\",\"allocation\":\"fixed\"}", KIND_CONTAINER, ERROR_BAD_VALUE,
          "memory_reservation" },
        { "{\"image\":\"x\",\"allocation\":\"hybrid\"}", KIND_CONTAINER, ERROR_BAD_VALUE, "allocation" },
        { "{\"image\":\"x\",\"allocation\":\"hybrid\",\"cpu_reservation\":2}", KIND_VM, ERROR_BAD_VALUE, "cpu_reservation" },
        { "{\"image\":\"x\",\"allocation\":\"hybrid\",\"memory_reservation\":\"2G\"}", KIND_CONTAINER, ERROR_BAD_VALUE,
          "memory_reservation" },
        { "{\"image\":\"x\",\"cpu_limit\":0.5}", KIND_VM, ERROR_BAD_VALUE, "cpu_limit" },
        { "{\"image\":\"x\",\"memory_limit\":\"128M\"}", KIND_CONTAINER, ERROR_BAD_VALUE, "memory_limit" },
        { "{\"image\":\"x\",\"allocation\":\"fixed\",\"cpu_limit\":2}", KIND_VM, ERROR_BAD_VALUE, "cpu_limit" },
        { "{\"image\":\"x\",\"allocation\":\"fixed\",\"cpus\":1.5}", KIND_VM, ERROR_BAD_VALUE, "cpus" },
        { "{\"image\":\"x\",\"allocation\":\"fixed\",\"cpuset\":\"1-2\"}", KIND_VM, ERROR_BAD_VALUE, "cpuset" },
        { "{\"image\":\"x\",\"memory\":\"16M\"}", KIND_VM, ERROR_OUT_OF_RANGE, "memory" },
        { "{\"image\":\"x\",\"memory\":\"16M\"}", KIND_MICROVM, ERROR_OUT_OF_RANGE, "memory" },
    };

    for (size_t i = 0; i < ELEMENTS(rows); i++) {
        _cleanup_error_ struct error error = ERROR_INIT;
        struct instance_spec spec = { 0 };

        assert_int_equal(decode(rows[i].json, DECODE_REPLACE, &spec, NULL), 0);
        assert_true(instance_spec_validate(&spec, rows[i].kind, &error) < 0);
        if (error.code != rows[i].code || !text_equal(error.parameters[0], rows[i].field))
            fail_msg("%s: %s of '%s'", rows[i].json, error_wire(error.code), error.parameters[0]);
        table_done(&instance_spec_table, &spec);
    }
}

static void test_bad_values(void **state) {
    static const char *const rows[][2] = {
        { "image", "--privileged" },
        { "image", "../../etc" },
        { "image", "a b" },
        { "user", "-u" },
        { "user", "0:0\\n" },
        { "user", "2147483647" },
        { "user", "4294967296" },
        { "user", "a:b:c" },
        { "user", ":" },
        { "hostname", "-a" },
        { "hostname", "a_b" },
        { "hostname", "a..b" },
        { "working_directory", "srv" },
        { "working_directory", "/a/../b" },
        { "network", "host" },
        { "stop_signal", "-1" },
        { "cpuset", "0-" },
        { "cpuset", "1024" },
        { "cpuset", "3-1" },
        { "cpuset", "0 1" },
        { "cpuset", "0,,1" },
        { "allocation", "elastic" },
        { "stop_signal", "SIGNOPE" },
        { "stop_signal", "65" },
        { "description", "a\\r\\nb" },
        { "user_data", "a\\u001b" },
    };

    for (size_t i = 0; i < ELEMENTS(rows); i++) {
        _cleanup_free_ char *json = text_format("{\"%s\":\"%s\"}", rows[i][0], rows[i][1]);
        _cleanup_error_ struct error error = ERROR_INIT;
        struct instance_spec spec = { .image = strdup("x") };

        if (decode(json, DECODE_MERGE, &spec, &error) >= 0)
            fail_msg("%s was taken", json);
        assert_int_equal(error.code, ERROR_BAD_VALUE);
        table_done(&instance_spec_table, &spec);
    }
}

static void test_environment_limit(void **state) {
    _cleanup_buffer_ struct buffer json = BUFFER_INIT;
    _cleanup_error_ struct error error = ERROR_INIT;
    struct instance_spec spec = { 0 };

    buffer_add_text(&json, "{\"image\":\"x\",\"environment\":{\"A\":\"\"");
    for (int i = 0; i < 1000; i++)
        buffer_addf(&json, ",\"V%d\":\"x\"", i);
    buffer_add_text(&json, "}}");
    assert_int_equal(decode(json.data, DECODE_REPLACE, &spec, &error), -E2BIG);
}

static void test_whole_size(void **state) {
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_buffer_ struct buffer quotes = BUFFER_INIT;
    struct instance_spec spec;

    for (int i = 0; i < FIELD_BYTES_MAX - 2; i++)
        buffer_add_char(&quotes, '"');
    assert_int_equal(table_init(&instance_spec_table, &spec), 0);
    assert_int_equal(table_decode_text(&instance_spec_table, "image", "x", &spec, NULL), 0);
    assert_int_equal(table_decode_text(&instance_spec_table, "command", quotes.data, &spec, NULL), 0);
    assert_int_equal(instance_spec_validate(&spec, KIND_CONTAINER, &error), 0);
    assert_int_equal(table_decode_text(&instance_spec_table, "entrypoint", quotes.data, &spec, NULL), 0);
    assert_int_equal(instance_spec_validate(&spec, KIND_CONTAINER, &error), -E2BIG);
    table_done(&instance_spec_table, &spec);
}

static uint64_t memory_after(const char *text, enum kind kind, unsigned flags) {
    _cleanup_json_ struct json_object *json = NULL;
    struct instance_spec spec = { .memory = 4 << 20 };

    assert_int_equal(json_parse(text, strlen(text), &json, NULL), 0);
    instance_spec_complete(&spec, kind, json, flags);
    return spec.memory >> 20;
}

static uint64_t stop_timeout_after(const char *text, enum kind kind, unsigned flags) {
    _cleanup_json_ struct json_object *json = NULL;
    struct instance_spec spec = { .stop_timeout = 10000 };

    assert_int_equal(json_parse(text, strlen(text), &json, NULL), 0);
    instance_spec_complete(&spec, kind, json, flags);
    return spec.stop_timeout;
}

/* A whole system needs longer to shut down than one program to end. */
static void test_stop_timeout_of_a_vm(void **state) {
    assert_int_equal(stop_timeout_after("{}", KIND_VM, DECODE_REPLACE), 90000);
    assert_int_equal(stop_timeout_after("{\"stop_timeout\":\"10s\"}", KIND_VM, DECODE_REPLACE), 10000);
    assert_int_equal(stop_timeout_after("{}", KIND_CONTAINER, DECODE_REPLACE), 10000);
    assert_int_equal(stop_timeout_after("{}", KIND_MICROVM, DECODE_REPLACE), 10000);
    assert_int_equal(stop_timeout_after("{}", KIND_VM, DECODE_MERGE), 10000);
    assert_int_equal(stop_timeout_after("{\"stop_timeout\":null}", KIND_VM, DECODE_MERGE), 90000);
}

static void test_memory_of_a_vm(void **state) {
    assert_int_equal(memory_after("{}", KIND_VM, DECODE_REPLACE), 1024);
    assert_int_equal(memory_after("{\"memory\":4194304}", KIND_VM, DECODE_REPLACE), 4);
    assert_int_equal(memory_after("{\"memory\":null}", KIND_VM, DECODE_REPLACE), 1024);
    assert_int_equal(memory_after("{}", KIND_CONTAINER, DECODE_REPLACE), 4);
    assert_int_equal(memory_after("{}", KIND_VM, DECODE_MERGE), 4);
    assert_int_equal(memory_after("{\"memory\":null}", KIND_VM, DECODE_MERGE), 1024);
}

static void test_names(void **state) {
    static const char *const bad[] = { "",    ".",   "..", "-rf",   "a-", "a/b", "A",
                                       "a_b", "a\n", "%n", "$(id)", "é",  "a b", "\xe2\x80\xae" };
    char name[80];

    for (size_t i = 0; i < ELEMENTS(bad); i++)
        if (name_is_valid(bad[i]))
            fail_msg("'%s' is valid", bad[i]);
    assert_false(name_is_valid(NULL));
    memset(name, 'a', sizeof(name));
    name[64] = '\0';
    assert_false(name_is_valid(name));
    name[63] = '\0';
    assert_true(name_is_valid(name));
    assert_true(name_is_valid("a"));
    assert_true(name_is_valid("con"));
    for (int i = 0; i < 500; i++) {
        name_invent(name, sizeof(name));
        assert_true(name_is_valid(name));
    }
}

static void test_ports(void **state) {
    static const char *const bad[] = { "",          "80",          "80:",         ":80",           "0:80",
                                       "65536:80",  "80:0",        "80:80/sctp",  "a:80",          "80:80:80",
                                       "::1:80:80", "1.2.3:80:80", "80-90:80-90", "1.2.3.4.5:1:1", "80:80/",
                                       "-1:80" };
    struct instance_port port;

    table_init(&instance_port_table, &port);
    assert_int_equal(port_parse("127.0.0.1:5353:53/udp", &port, NULL), 0);
    assert_string_equal(port.host_address, "127.0.0.1");
    assert_int_equal(port.host_port, 5353);
    assert_int_equal(port.port, 53);
    assert_int_equal(port.protocol, PROTOCOL_UDP);
    table_done(&instance_port_table, &port);
    assert_int_equal(port_parse("8080:80", &port, NULL), 0);
    assert_int_equal(port.protocol, PROTOCOL_TCP);
    for (size_t i = 0; i < ELEMENTS(bad); i++) {
        _cleanup_error_ struct error error = ERROR_INIT;

        if (port_parse(bad[i], &port, &error) >= 0 || !error_is_set(&error))
            fail_msg("'%s' was taken", bad[i]);
    }
    table_done(&instance_port_table, &port);
}

static void test_mounts(void **state) {
    static const char *const bad[] = { "",
                                       "x:/y",
                                       "/x",
                                       "/x:y",
                                       "/x:/y:rx",
                                       "/x:/",
                                       "/x:/../y",
                                       "/../x:/y",
                                       "/x:/y:ro:z",
                                       "/a\x1b:/b",
                                       "type=bind",
                                       "type=nfs,source=/x,target=/y",
                                       "target=/y,zzz=1",
                                       "ro" };
    struct instance_spec spec;
    const struct instance_mount *mounts;

    table_init(&instance_spec_table, &spec);
    assert_int_equal(table_decode_text(&instance_spec_table, "mounts", "/srv/a=b:/data:ro", &spec, NULL), 0);
    assert_int_equal(table_decode_text(&instance_spec_table, "mounts",
                                       "type=tmpfs,destination=/t,tmpfs-size=64M", &spec, NULL),
                     0);
    assert_int_equal(
        table_decode_text(&instance_spec_table, "mounts", "type=bind,src=/x,dst=/y,readonly", &spec, NULL),
        0);
    for (size_t i = 0; i < ELEMENTS(bad); i++) {
        _cleanup_error_ struct error error = ERROR_INIT;

        if (table_decode_text(&instance_spec_table, "mounts", bad[i], &spec, &error) >= 0 ||
            !error_is_set(&error))
            fail_msg("'%s' was taken", bad[i]);
    }
    assert_int_equal(spec.mounts.count, 3);
    mounts = spec.mounts.items;
    assert_string_equal(mounts[0].source, "/srv/a=b");
    assert_true(mounts[0].read_only);
    assert_int_equal(mounts[1].type, MOUNT_TMPFS);
    assert_int_equal(mounts[1].size, 64 << 20);
    assert_string_equal(mounts[2].target, "/y");
    table_done(&instance_spec_table, &spec);
}

static void test_restarts(void **state) {
    static const char *const bad[] = { "",
                                       "yes",
                                       "on-failure:",
                                       "on-failure:x",
                                       "on-failure:-1",
                                       "always:3",
                                       "on-failure:99999999999999999999" };
    int64_t limit;
    int policy;

    assert_int_equal(restart_parse("on-failure:3", &policy, &limit, NULL), 0);
    assert_int_equal(policy, RESTART_ON_FAILURE);
    assert_int_equal(limit, 3);
    assert_int_equal(restart_parse("unless-stopped", &policy, &limit, NULL), 0);
    assert_int_equal(policy, RESTART_UNLESS_STOPPED);
    for (size_t i = 0; i < ELEMENTS(bad); i++)
        assert_true(restart_parse(bad[i], &policy, &limit, NULL) < 0);
}

static void test_signals(void **state) {
    assert_int_equal(signal_from_name("SIGTERM"), 15);
    assert_int_equal(signal_from_name("kill"), 9);
    assert_int_equal(signal_from_name("64"), 64);
    assert_int_equal(signal_from_name("RTMIN+3"), 37);
    assert_int_equal(signal_from_name("SIGRTMAX-1"), 63);
    assert_int_equal(signal_from_name("0"), -EINVAL);
    assert_int_equal(signal_from_name(""), -EINVAL);
    assert_int_equal(signal_from_name("RTMIN+31"), -EINVAL);
    assert_int_equal(signal_from_name("SIG"), -EINVAL);
}

static void test_images(void **state) {
    static const char *const bad_aliases[] = { "",   "-x", "a b", "../x", "a/../b",
                                               "/x", "x/", "a\n", "a;b",  "é" };

    for (size_t i = 0; i < ELEMENTS(bad_aliases); i++)
        assert_false(image_alias_is_valid(bad_aliases[i]));
    assert_true(image_alias_is_valid("docker://host:5000/Library/name:tag"));
    assert_true(
        image_digest_is_valid("sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"));
    assert_false(image_digest_is_valid("sha256:../x"));
    assert_false(
        image_digest_is_valid("sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde"));
    assert_false(
        image_digest_is_valid("sha256:0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef"));
    assert_false(
        image_digest_is_valid("md5:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"));
    assert_false(image_digest_is_valid(NULL));
}

static void test_other_tables(void **state) {
    const struct table *const tables[] = { &instance_assigned_table, &instance_status_table, &image_table };

    for (size_t i = 0; i < ELEMENTS(tables); i++) {
        _cleanup_buffer_ struct buffer out = BUFFER_INIT;
        struct emitter emitter = EMITTER_INIT(&out);
        _cleanup_json_ struct json_object *json = NULL;
        _cleanup_free_ void *a = malloc(tables[i]->size);
        _cleanup_free_ void *b = calloc(1, tables[i]->size);

        assert_int_equal(table_init(tables[i], a), 0);
        emit_object(&emitter);
        table_emit(tables[i], a, &emitter);
        emit_object_end(&emitter);
        assert_int_equal(json_parse(out.data, out.size, &json, NULL), 0);
        assert_int_equal(table_decode(tables[i], json, DECODE_STORED, b, NULL), 0);
        assert_true(table_equal(tables[i], a, b));
        assert_true(table_decode(tables[i], json, DECODE_REPLACE, b, NULL) < 0); /* all of it is output */
        table_done(tables[i], a);
        table_done(tables[i], b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_field_has_a_sample),
        cmocka_unit_test(test_every_field_round_trips),
        cmocka_unit_test(test_every_field_refuses_wrong_types),
        cmocka_unit_test(test_every_field_takes_null),
        cmocka_unit_test(test_every_number_has_limits),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_environment_limit),
        cmocka_unit_test(test_whole_size),
        cmocka_unit_test(test_memory_of_a_vm), cmocka_unit_test(test_stop_timeout_of_a_vm),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_ports),
        cmocka_unit_test(test_mounts),
        cmocka_unit_test(test_restarts),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_images),
        cmocka_unit_test(test_other_tables),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
