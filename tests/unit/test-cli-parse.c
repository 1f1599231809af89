// SPDX-License-Identifier: GPL-2.0-or-later
/* The command line: flags in every form, where the command for inside begins, suggestions; and that each row of the
 * table is complete. */
#include "test.h"

#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/help.h"

#define MAX_WORDS 24

struct parsed {
    struct invocation invocation;
    struct error error;
    char *text;
    char *words[MAX_WORDS];
    int result;
};

/* Splits at blanks. */
static void parse(struct parsed *ret, const char *line) {
    char *word, *position = NULL;
    int count = 0;

    memset(ret, 0, sizeof(*ret));
    ret->text = strdup(line);
    for (word = strtok_r(ret->text, " ", &position); word && count < MAX_WORDS; word = strtok_r(NULL, " ", &position))
        ret->words[count++] = word;
    ret->result = command_parse(count, ret->words, &ret->invocation, &ret->error);
}

static void parsed_done(struct parsed *parsed) {
    invocation_done(&parsed->invocation);
    error_clear(&parsed->error);
    free(parsed->text);
}
#define _cleanup_parsed_ __attribute__((cleanup(parsed_done)))

static char *spec_text(const struct invocation *invocation) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);
    char *ret = NULL;

    emit_object(&emitter);
    invocation_emit_spec(invocation, &emitter);
    emit_object_end(&emitter);
    assert_int_equal(buffer_take(&out, &ret), 0);
    return ret;
}

static void test_run(void **state) {
    _cleanup_parsed_ struct parsed p;
    _cleanup_free_ char *spec = NULL;

    parse(&p, "run --cpus 1.5 -m 256M --rm --publish 8080:80 -it --label=a=b -eX=1 busybox --kind microvm -- sh -c x");
    assert_int_equal(p.result, 0);
    assert_string_equal(p.invocation.command->name, "run");
    assert_int_equal(p.invocation.count, 1);
    assert_string_equal(p.invocation.arguments[0], "busybox");
    assert_int_equal(p.invocation.rest_count, 3);
    assert_string_equal(p.invocation.rest[0], "sh");
    assert_string_equal(p.invocation.rest[1], "-c");
    assert_true(p.invocation.spec.tty && p.invocation.spec.stdin_open && p.invocation.spec.remove);
    spec = spec_text(&p.invocation);
    assert_string_equal(spec, "{\"kind\":\"microvm\",\"cpus\":1.5,\"memory\":268435456,\"environment\":{\"X\":\"1\"},"
                              "\"labels\":{\"a\":\"b\"},\"tty\":true,\"stdin_open\":true,\"remove\":true,"
                              "\"publish\":[{\"protocol\":\"tcp\",\"host_port\":8080,\"port\":80}]}");
}

static void test_docker_form(void **state) {
    _cleanup_parsed_ struct parsed p;

    parse(&p, "run busybox ls -l /");
    assert_int_equal(p.result, 0);
    assert_int_equal(p.invocation.rest_count, 3);
    assert_string_equal(p.invocation.rest[1], "-l");
}

static void test_restart_sets_two(void **state) {
    _cleanup_parsed_ struct parsed p;
    _cleanup_free_ char *spec = NULL;

    parse(&p, "set web --restart on-failure:3");
    assert_int_equal(p.result, 0);
    spec = spec_text(&p.invocation);
    assert_string_equal(spec, "{\"restart\":\"on-failure\",\"restart_limit\":3}");
}

/* What equals the default is sent too when it was said. */
static void test_default_said(void **state) {
    _cleanup_parsed_ struct parsed p;
    _cleanup_free_ char *spec = NULL;

    parse(&p, "set web --priority 0 --graphics=false");
    assert_int_equal(p.result, 0);
    spec = spec_text(&p.invocation);
    assert_string_equal(spec, "{\"priority\":0,\"graphics\":false}");
}

static void test_common(void **state) {
    _cleanup_parsed_ struct parsed p;

    parse(&p, "--socket /x/y image list -o json");
    assert_int_equal(p.result, 0);
    assert_string_equal(p.invocation.command->name, "ls");
    assert_string_equal(p.invocation.socket, "/x/y");
    assert_int_equal(p.invocation.output, OUTPUT_JSON);
}

static void test_no_wait(void **state) {
    _cleanup_parsed_ struct parsed p;

    parse(&p, "stop --no-wait --time 5s a b");
    assert_int_equal(p.result, 0);
    assert_true(p.invocation.no_wait);
    assert_int_equal(p.invocation.count, 2);
}

static void test_refused(void **state) {
    static const struct {
        const char *line, *part;
    } lines[] = {
        { "lss", "did you mean 'ls'" },
        { "image pul x", "did you mean 'image pull'" },
        { "run --memry 1 x", "did you mean '--memory'" },
        { "run --memory", "needs a value" },
        { "run -Z x", "no flag '-Z'" },
        { "ls -o xml", "table, wide, json" },
        { "show", "needs INSTANCE" },
        { "ls a b", "does not take 'b'" },
        { "ls --quiet=maybe", "takes no value" },
        { "run --cpus lots x", "cpus" },
        { "run --memory 1 x", "memory" },
        { "run --kind banana x", "kind" },
        { "run --publish 99999:1 x", "publish" },
        { "audit --limit many", "takes a number" },
    };

    for (size_t i = 0; i < ELEMENTS(lines); i++) {
        _cleanup_parsed_ struct parsed p;
        _cleanup_free_ char *sentence = NULL;
        parse(&p, lines[i].line);
        sentence = error_sentence(&p.error, LANGUAGE_ENGLISH);
        if (p.result >= 0 || !strstr(sentence, lines[i].part))
            fail_msg("%s: %s", lines[i].line, sentence);
    }
}

static void check_rows(const struct command *const *list) {
    for (size_t i = 0; list[i]; i++) {
        const struct command *command = list[i];
        struct flag_view view, other;
        size_t position = 0;

        assert_non_null(command->name);
        assert_non_null(command->summary);
        assert_non_null(command->group);
        assert_true(command->summary[strlen(command->summary) - 1] != '.');
        assert_true((command->run != NULL) != (command->children != NULL));
        if (command->run)
            assert_non_null(command->usage);
        /* No two flags of a command share a name or a letter. */
        while (command_flag_next(command, &position, &view)) {
            size_t next = position;
            assert_non_null(view.help);
            assert_true(view.help[strlen(view.help) - 1] == '.');
            while (command_flag_next(command, &next, &other))
                if (!strcmp(view.name, other.name) || (view.letter && view.letter == other.letter) ||
                    text_equal(view.alias, other.name))
                    fail_msg("%s: --%s and --%s collide", command->name, view.name, other.name);
        }
        if (command->children)
            check_rows(command->children);
    }
}

static void test_rows(void **state) {
    check_rows(commands);
}

/* docs/reference/cli.md is what the table says. POLDER_TEST_SOURCES/../../docs. */
static void test_reference(void **state) {
    const char *sources = getenv("POLDER_TEST_SOURCES");
    _cleanup_free_ char *path = text_format("%s/../../docs/reference/cli.md", sources ? sources : "tests/unit");
    _cleanup_free_ char *made = NULL, *kept = NULL;
    size_t made_size = 0, kept_size = 0;
    FILE *file = open_memstream(&made, &made_size);

    reference_write(file);
    fclose(file);
    file = fopen(path, "r");
    if (!file)
        fail_msg("%s is missing: make it with 'polder man -'", path);
    kept = calloc(1, made_size + 65536);
    kept_size = fread(kept, 1, made_size + 65535, file);
    fclose(file);
    if (kept_size != made_size || memcmp(kept, made, made_size) != 0)
        fail_msg("%s is out of date: make it anew with 'polder man - > docs/reference/cli.md'", path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run),           cmocka_unit_test(test_docker_form), cmocka_unit_test(test_restart_sets_two),
        cmocka_unit_test(test_default_said),  cmocka_unit_test(test_common),      cmocka_unit_test(test_no_wait),
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_rows),        cmocka_unit_test(test_reference),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
