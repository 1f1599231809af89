// SPDX-License-Identifier: GPL-2.0-or-later
#include "model/placement.h"

#include <string.h>

#include "base/text.h"
#include "model/instance.h"

#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/"
#define NAME_MOST 63

const char *const placement_level_names[PLACEMENT_LEVELS + 1] = { "node", "rack", "zone", NULL };

/* --- terms ------------------------------------------------------------------------------------------------------------ */

/* Where ":LEVEL" begins, or the end: a label's value may hold ':' itself. */
static size_t selector_length(const char *term, enum placement_level *ret_level) {
    const char *colon = strrchr(term, ':');

    *ret_level = PLACEMENT_NODE;
    for (int level = 0; colon && level < PLACEMENT_LEVELS; level++)
        if (text_equal(colon + 1, placement_level_names[level])) {
            *ret_level = (enum placement_level) level;
            return (size_t) (colon - term);
        }
    return strlen(term);
}

char *placement_selector(const char *term, enum placement_level *ret_level) {
    enum placement_level level;
    size_t length = selector_length(term, &level);

    if (ret_level)
        *ret_level = level;
    return strndup(term, length);
}

/* Is `text` "KEY=…" with this key? */
static bool has_key(const char *text, const char *key, size_t length) {
    return strncmp(text, key, length) == 0 && text[length] == '=';
}

enum placement_level placement_level(const char *term) {
    enum placement_level level;

    (void) selector_length(term, &level);
    return level;
}

static bool is_text(const char *part, size_t length, const char *text) {
    return text && strncmp(part, text, length) == 0 && text[length] == '\0';
}

bool placement_selects(const char *term, const char *name, char *const *labels) {
    enum placement_level level;
    size_t length = selector_length(term, &level), prefix = strlen("name=");
    bool whole = memchr(term, '=', length);

    if (length > prefix && text_starts(term, "name=") && is_text(term + prefix, length - prefix, name))
        return true;
    for (char *const *label = labels; label && *label; label++)
        if (whole ? is_text(term, length, *label) : has_key(*label, term, length))
            return true;
    return false;
}

bool placement_label_holds(const char *term, char *const *labels) {
    const char *not = strstr(term, "!=");

    if (!not)
        return list_has(labels, term);
    for (char *const *label = labels; label && *label; label++)
        if (has_key(*label, term, (size_t) (not - term)) && text_equal(*label + (not - term) + 1, not + 2))
            return false;
    return true;
}

bool placement_tolerates(char *const *tolerations, const char *taint) {
    size_t key = strcspn(taint, "=");

    for (char *const *term = tolerations; term && *term; term++)
        if (text_equal(*term, taint) || (strlen(*term) == key && strncmp(*term, taint, key) == 0))
            return true;
    return false;
}

char *placement_refused_label(const char *term) {
    const char *not = strstr(term, "!=");

    return not ? text_format("%.*s=%s", (int) (not - term), term, not + 2) : NULL;
}

/* --- checks of single ones -------------------------------------------------------------------------------------------- */

static bool is_word(const char *text, size_t size) {
    return size > 0 && size <= NAME_MOST && strspn(text, LETTERS) >= size;
}

static const char *check_pair(const char *text, bool may_lack_value) {
    size_t key = strcspn(text, "=");

    if (!is_word(text, key))
        return "a key is 1 to 63 of a-z, A-Z, 0-9 and . _ - /";
    if (text[key] == '\0')
        return may_lack_value ? NULL : "give KEY=VALUE";
    return is_word(text + key + 1, strlen(text + key + 1)) ? NULL : "a value is 1 to 63 of a-z, A-Z, 0-9 and . _ - /";
}

const char *placement_check_node_label(const char *text) {
    const char *not = strstr(text, "!=");

    if (text_starts(text, "kind=") || text_starts(text, "kind!="))
        return "the kind is asked for with --kind";
    if (!not)
        return check_pair(text, false) ? "give KEY=VALUE or KEY!=VALUE, of a-z, A-Z, 0-9 and . _ - /" : NULL;
    if (!is_word(text, (size_t) (not - text)) || !is_word(not + 2, strlen(not + 2)))
        return "give KEY=VALUE or KEY!=VALUE, of a-z, A-Z, 0-9 and . _ - /";
    return NULL;
}

const char *placement_check_feature(const char *text) {
    return is_word(text, strlen(text)) ? NULL : "a feature is a word such as avx2";
}

const char *placement_check_toleration(const char *text) {
    return check_pair(text, true) ? "give KEY or KEY=VALUE, of a-z, A-Z, 0-9 and . _ - /" : NULL;
}

const char *placement_check_selector(const char *text) {
    enum placement_level level;
    size_t length = selector_length(text, &level), key = strcspn(text, "=");

    key = key < length ? key : length;
    if (key == 0 || key > 255)
        return "give KEY=VALUE, KEY or name=NAME, and if need be :node, :rack or :zone";
    return key + 1 == length ? "the value is missing" : NULL;
}

/* --- terms that contradict each other --------------------------------------------------------------------------------- */

static int refuse(const char *field, const char *term, char *reason_take, struct error *error) {
    _cleanup_free_ char *reason = reason_take;

    return reason ? error_set(error, ERROR_BAD_VALUE, field, term, reason) : error_set(error, ERROR_NO_MEMORY);
}

/* One key has one value, and not that which is refused. */
static int check_labels(char *const *terms, struct error *error) {
    for (char *const *a = terms; a && *a; a++)
        for (char *const *b = terms; strstr(*a, "!=") == NULL && *b; b++) {
            _cleanup_free_ char *refused = placement_refused_label(*b);
            size_t key = strcspn(*a, "=");
            if (refused && text_equal(refused, *a))
                return refuse("node_labels", *a, text_format("it contradicts %s", *b), error);
            if (!refused && has_key(*b, *a, key) && !text_equal(*a, *b))
                return refuse("node_labels", *a, text_format("it contradicts %s: a node has one value of a label", *b), error);
        }
    return 0;
}

/* Two lists that must not name the same instances at levels of which the first is at most (`wider`: at least) the second. */
static int check_pairs(char *const *a, char *const *b, const char *field, bool wider, const char *reason, struct error *error) {
    for (char *const *first = a; first && *first; first++)
        for (char *const *second = b; second && *second; second++) {
            enum placement_level near, away;
            _cleanup_free_ char *one = placement_selector(*first, &near), *other = placement_selector(*second, &away);
            if (!one || !other)
                return error_set(error, ERROR_NO_MEMORY);
            if (text_equal(one, other) && (wider ? near >= away : near <= away))
                return refuse(field, *second, text_format(reason, *first), error);
        }
    return 0;
}

static int check_self(const struct instance_spec *spec, const char *name, struct error *error) {
    for (char *const *term = spec->anti_affinity; name && term && *term; term++) {
        _cleanup_free_ char *selector = placement_selector(*term, NULL), *self = text_format("name=%s", name);
        if (!selector || !self)
            return error_set(error, ERROR_NO_MEMORY);
        if (text_equal(selector, self))
            return refuse("anti_affinity", *term, strdup("it cannot keep away from itself"), error);
    }
    return 0;
}

int placement_validate(const struct instance_spec *spec, const char *name, struct error *error) {
    size_t terms = list_count(spec->affinity) + list_count(spec->anti_affinity) + list_count(spec->spread);
    int r = check_labels(spec->node_labels, error);

    if (r >= 0 && terms > PLACEMENT_TERMS)
        r = error_set(error, ERROR_TOO_LARGE, "affinity, anti_affinity and spread together", "8 terms");
    /* In one node means in one rack and zone as well: what keeps away in the wider domain excludes it. */
    if (r >= 0)
        r = check_pairs(spec->affinity, spec->anti_affinity, "anti_affinity", false,
                        "it contradicts the affinity to %s: near and away at once", error);
    if (r >= 0)
        r = check_pairs(spec->affinity, spec->spread, "spread", false,
                        "it contradicts the affinity to %s: all in one place and as many in each", error);
    if (r >= 0)
        r = check_pairs(spec->anti_affinity, spec->spread, "spread", true,
                        "the anti-affinity to %s lets no second one near already: leave one of them out", error);
    return r < 0 ? r : check_self(spec, name, error);
}

/* --- a node's settings ------------------------------------------------------------------------------------------------ */

/* What polderd measures cannot be set. */
static const char *check_label(const char *text) {
    static const char *const measured[] = { "kind", "machine", "acceleration", "node", "name" };

    for (size_t i = 0; i < ELEMENTS(measured); i++)
        if (has_key(text, measured[i], strlen(measured[i])))
            return "polderd sets the labels kind, machine, acceleration, node and name itself";
    return check_pair(text, false);
}

static const char *check_taint(const char *text) {
    const char *effect = strrchr(text, ':');

    if (effect && (text_equal(effect, ":NoExecute") || text_equal(effect, ":PreferNoSchedule")))
        return "a taint keeps new instances away (NoSchedule) and nothing else: it neither ends what runs nor is it a mere wish; "
               "stop instances with polder stop";
    if (effect)
        return "the only effect is NoSchedule";
    return text[strcspn(text, "=")] && !text[strcspn(text, "=") + 1] ? (is_word(text, strcspn(text, "=")) ? NULL : "give KEY")
                                                                     : check_pair(text, true);
}

static const struct field settings_fields[] = {
    { .name = "labels", .type = FIELD_MAP, .offset = offsetof(struct node_settings, labels), .change = CHANGE_LIVE,
      .maximum = 64, .check = check_label, .help = "Labels of the node, which instances can ask for; rack and zone say where it lies." },
    { .name = "taints", .type = FIELD_MAP, .offset = offsetof(struct node_settings, taints), .change = CHANGE_LIVE,
      .maximum = 32, .check = check_taint, .help = "Taints: instances that do not tolerate one wait until it is gone." },
};
const struct table node_settings_table = TABLE("node", struct node_settings, settings_fields);
