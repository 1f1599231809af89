// SPDX-License-Identifier: GPL-2.0-or-later
#include "drivers/fake/script.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

static int refuse(struct error *error, const char *label, const char *word) {
    return error_set(error, ERROR_BAD_VALUE, label, word,
                     "use delay=DURATION, fail, fail=N, hang, exit=CODE, oom, output=TEXT, cpu=NUMBER, memory=SIZE");
}

static int word_read(const char *label, const char *word, struct fake_step *step, struct error *error) {
    uint64_t number;

    if (text_equal(word, "fail")) {
        step->failures = -1;
    } else if (text_equal(word, "hang")) {
        step->hang = true;
    } else if (text_equal(word, "oom")) {
        step->oom = true;
    } else if (text_starts(word, "delay=")) {
        return text_parse_duration(word + 6, &step->delay_ms) < 0 ? refuse(error, label, word) : 0;
    } else if (text_starts(word, "fail=")) {
        if (text_parse_u64(word + 5, &number) < 0 || number > INT32_MAX)
            return refuse(error, label, word);
        step->failures = (int64_t) number;
    } else if (text_starts(word, "exit=")) {
        if (text_parse_u64(word + 5, &number) < 0 || number > 255)
            return refuse(error, label, word);
        step->exits = true;
        step->code = (int) number;
    } else if (text_starts(word, "cpu=") || text_starts(word, "memory=")) {
        step->measured = true;
        if (word[0] == 'c' ? text_parse_cpus(word + 4, &step->cpu) < 0 : text_parse_size(word + 7, &step->memory) < 0)
            return refuse(error, label, word);
    } else if (text_starts(word, "output=")) {
        free(step->output);
        step->output = strdup(word + 7);
        return step->output ? 0 : -ENOMEM;
    } else {
        return refuse(error, label, word);
    }
    return 0;
}

int fake_step_read(char *const *labels, const char *step, struct fake_step *ret, struct error *error) {
    _cleanup_free_ char *key = text_format("polder.fake.%s", step), *prefix = text_format("polder.fake.%s=", step);
    struct fake_step result = { 0 };
    int r = key && prefix ? 0 : -ENOMEM;

    for (char *const *label = labels; r >= 0 && label && *label; label++) {
        _cleanup_list_ char **words = NULL;
        if (!text_starts(*label, prefix))
            continue;
        r = list_split(*label + strlen(prefix), ",", &words);
        for (char **word = words; r >= 0 && word && *word; word++)
            r = word_read(key, *word, &result, error);
    }
    if (r < 0) {
        fake_step_done(&result);
        return r;
    }
    *ret = result;
    return 0;
}

void fake_step_done(struct fake_step *step) {
    free(step->output);
    step->output = NULL;
}
