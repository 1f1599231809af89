// SPDX-License-Identifier: GPL-2.0-or-later
#include "host/facts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"

static const char *const level_names[] = {
    [FINDING_OK] = "ok",
    [FINDING_NOTE] = "note",
    [FINDING_WARNING] = "warning",
    [FINDING_ERROR] = "error",
};

const char *finding_level_name(enum finding_level level) {
    return (size_t) level < ELEMENTS(level_names) ? level_names[level] : "unknown";
}

static void finding_done(struct finding *finding) {
    free(finding->topic);
    free(finding->text);
    free(finding->reason);
    free(finding->advice);
}

int findings_add(struct findings *findings, enum finding_level level, const char *topic, const char *text,
                 const char *reason, const char *advice) {
    struct finding *items = reallocarray(findings->items, findings->count + 1, sizeof(*items));
    struct finding *added;

    if (!items)
        return -ENOMEM;
    findings->items = items;
    added = &items[findings->count];
    *added = (struct finding){ .level = level,
                               .topic = strdup(topic),
                               .text = strdup(text),
                               .reason = strdup(reason ? reason : ""),
                               .advice = advice ? strdup(advice) : NULL };
    if (!added->topic || !added->text || !added->reason || (advice && !added->advice)) {
        finding_done(added);
        return -ENOMEM;
    }
    findings->count++;
    return 0;
}

void findings_done(struct findings *findings) {
    for (size_t i = 0; i < findings->count; i++)
        finding_done(&findings->items[i]);
    free(findings->items);
    *findings = (struct findings){ 0 };
}

void findings_emit(const struct findings *findings, struct emitter *emitter) {
    emit_array(emitter);
    for (size_t i = 0; i < findings->count; i++) {
        const struct finding *finding = &findings->items[i];

        emit_object(emitter);
        emit_key_text(emitter, "level", finding_level_name(finding->level));
        emit_key_text(emitter, "topic", finding->topic);
        emit_key_text(emitter, "text", finding->text);
        emit_key_text(emitter, "reason", finding->reason);
        emit_key_text(emitter, "advice", finding->advice);
        emit_object_end(emitter);
    }
    emit_array_end(emitter);
}

/* The first line "flags : …", on Arm "Features : …". Without them nothing that asks for one can run here. */
static char **read_features(void) {
    _cleanup_free_ char *line = NULL;
    FILE *file = fopen("/proc/cpuinfo", "re");
    char **features = NULL;
    size_t room = 0;

    while (file && getline(&line, &room, file) > 0) {
        const char *colon = strchr(line, ':');
        if (!colon || (!text_starts(line, "flags") && !text_starts(line, "Features")))
            continue;
        (void) list_split(colon + 1, " \n", &features);
        break;
    }
    if (file)
        fclose(file);
    return features;
}

int host_facts_read(struct host_facts *ret) {
    struct host_facts facts = { 0 };
    struct utsname names;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN), pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);

    if (uname(&names) < 0)
        return -errno;
    facts.cpus = cpus > 0 ? (uint64_t) cpus : 1;
    facts.memory = pages > 0 && page > 0 ? (uint64_t) pages * (uint64_t) page : 0;
    facts.kernel = strdup(names.release);
    facts.machine = strdup(names.machine);
    facts.hostname = strdup(names.nodename);
    facts.kvm_reason = strdup("not looked at yet");
    facts.features = read_features();
    if (!facts.kernel || !facts.machine || !facts.hostname || !facts.kvm_reason) {
        host_facts_done(&facts);
        return -ENOMEM;
    }
    *ret = facts;
    return 0;
}

void host_facts_done(struct host_facts *facts) {
    free(facts->kernel);
    free(facts->machine);
    free(facts->hostname);
    free(facts->kvm_reason);
    list_free(facts->features);
    *facts = (struct host_facts){ 0 };
}
