// SPDX-License-Identifier: GPL-2.0-or-later
/* The ledger on disk: STATE/ledger/NUMBER.jsonl, each file a checkpoint of the engine and what followed it. A file takes
 * SEGMENT_MOST beyond its checkpoint (some 300 bytes for each instance), then the next begins; FILES are kept. A decision is
 * made again from its file alone, on a worker thread and in an engine of its own. Nothing is fsync'ed: what a power loss takes
 * is the last seconds of an explanation, and the next file begins with a checkpoint again. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "engine/ledger.h"
#include "engine/placement-explain.h"
#include "manager/internal.h"

#define SEGMENT_MOST (1 << 20)
#define FILES 4
#define FILE_MOST (64 << 20) /* of one file that is read back */
#define FLUSH_EVERY CLOCK_SECOND

static char *segment_path(struct manager *manager, uint64_t number) {
    return text_format("%s/ledger/%08" PRIu64 ".jsonl", manager->configuration.state_path, number);
}

/* --- writing ----------------------------------------------------------------------------------------------------------- */

struct append {
    const char *path, *text;
    size_t size;
    bool first;
};

static int write_all(int fd, const char *text, size_t size) {
    while (size > 0) {
        ssize_t written = write(fd, text, size);
        if (written < 0)
            return -errno;
        text += written;
        size -= (size_t) written;
    }
    return 0;
}

static int append_job(void *userdata) {
    struct append *append = userdata;
    _cleanup_close_ int fd = open(append->path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | (append->first ? O_TRUNC : O_APPEND),
                                  0600);
    int r = fd < 0 ? -errno : write_all(fd, append->text, append->size);

    if (r < 0 && fd >= 0 && append->first)
        (void) unlink(append->path); /* half a checkpoint is none */
    return r;
}

static int append(struct manager *manager, uint64_t segment, const char *text, size_t size) {
    _cleanup_free_ char *path = segment_path(manager, segment);
    struct append append = { path, text, size, false };

    return path ? fiber_job(append_job, &append) : -ENOMEM;
}

struct beginning {
    const char *path;
    const struct engine_snapshot *snapshot;
};

static int begin_job(void *userdata) {
    struct beginning *beginning = userdata;
    _cleanup_buffer_ struct buffer checkpoint = BUFFER_INIT;
    int r = engine_snapshot_write(beginning->snapshot, &checkpoint);
    struct append append = { beginning->path, checkpoint.data, checkpoint.size, true };

    return r < 0 ? r : append_job(&append);
}

/* The next file, which begins with a checkpoint; what was recorded before is in the last one. Where that fails, the last one
 * stays the last, and none is removed: a full disk costs what comes, not what is there. */
static int segment_begin(struct manager *manager) {
    _cleanup_snapshot_ struct engine_snapshot *snapshot = NULL;
    _cleanup_free_ char *old = NULL, *path = segment_path(manager, manager->ledger_segment + 1);
    struct beginning beginning = { .path = path };
    int r = path ? engine_snapshot_take(manager->engine, &snapshot) : -ENOMEM;

    beginning.snapshot = snapshot;
    manager->ledger_broken = true;
    if (r >= 0)
        r = fiber_job(begin_job, &beginning);
    if (r < 0)
        return r;
    manager->ledger_broken = false;
    manager->ledger_segment++;
    manager->ledger_size = 0;
    old = manager->ledger_segment > FILES ? segment_path(manager, manager->ledger_segment - FILES) : NULL;
    if (old)
        (void) unlink(old);
    return 0;
}

/* Taken and cut at one moment, without a wait between: else what comes in the meantime would be in neither file. After a line
 * that could not be written nothing more goes into its file, which would be made again with a gap. */
static int flush(struct manager *manager) {
    _cleanup_free_ char *text = NULL;
    uint64_t last = manager->ledger_segment;
    size_t size;
    int r = engine_take_journal(manager->engine, &text, &size), rest;

    if (r < 0 || manager->ledger_broken)
        return segment_begin(manager);
    if (!text)
        return 0;
    if (manager->ledger_size + size <= SEGMENT_MOST) {
        manager->ledger_size += size;
        r = append(manager, last, text, size);
        manager->ledger_broken = r < 0;
        return r;
    }
    r = segment_begin(manager);
    rest = append(manager, last, text, size);
    return r < 0 ? r : rest;
}

/* One at a time: else what was taken later could be written earlier, and who looks a decision up would find it neither in
 * memory nor in the file. */
void ledger_flush(struct manager *manager) {
    int r;

    if ((!manager->ledger_segment && !manager->ledger_broken) || fiber_mutex_lock(&manager->ledger_lock, DEADLINE_NONE) < 0)
        return;
    r = flush(manager);
    fiber_mutex_unlock(&manager->ledger_lock);
    if (r < 0)
        log_debug("the ledger cannot be written: %s", strerror(-r));
}

static int scribe_main(void *userdata) {
    struct manager *manager = userdata;
    int r = 0;

    while (r >= 0) {
        uint64_t due = learnt_due(manager);
        r = fiber_queue_wait(&manager->scribe_queue, due);
        if (r >= 0)
            r = fiber_sleep(FLUSH_EVERY);
        ledger_flush(manager);
        if (due <= clock_now())
            learnt_save(manager);
        r = r == -ETIMEDOUT ? 0 : r;
    }
    return 0;
}

/* --- reading ----------------------------------------------------------------------------------------------------------- */

/* The line of a decision ("decision", "placement") within a file's text; NULL if it is not there. */
static char *find_line(char *text, const char *what, uint64_t number) {
    char head[48];
    size_t length = (size_t) snprintf(head, sizeof(head), "{\"%s\":%" PRIu64 ",", what, number);

    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1)
        if (strncmp(line, head, length) == 0)
            return line;
    return NULL;
}

static uint64_t last_decision(const char *text) {
    uint64_t last = 0;

    for (const char *line = text, *end; (end = strchr(line, '\n')); line = end + 1)
        if (text_starts(line, "{\"decision\":"))
            last = strtoull(line + strlen("{\"decision\":"), NULL, 10);
        else if (text_starts(line, "{\"checkpoint\":")) {
            const char *next = strstr(line, "\"next\":");
            uint64_t number = next && next < end ? strtoull(next + strlen("\"next\":"), NULL, 10) : 0;
            last = number > last + 1 ? number - 1 : last;
        }
    return last;
}

static uint64_t newest_segment(struct manager *manager) {
    _cleanup_free_ char *path = text_format("%s/ledger", manager->configuration.state_path);
    DIR *directory = path ? opendir(path) : NULL;
    uint64_t newest = 0;
    struct dirent *entry;

    while (directory && (entry = readdir(directory))) {
        uint64_t number = strtoull(entry->d_name, NULL, 10);
        if (text_ends(entry->d_name, ".jsonl") && number > newest)
            newest = number;
    }
    if (directory)
        closedir(directory);
    return newest;
}

int ledger_start(struct manager *manager) {
    _cleanup_free_ char *directory = text_format("%s/ledger", manager->configuration.state_path), *path = NULL, *text = NULL;
    int r = directory ? file_make_directories(AT_FDCWD, directory, 0700) : -ENOMEM;

    if (r < 0 && r != -EEXIST) {
        log_warning("decisions are not recorded: %s: %s", directory ? directory : "", strerror(-r));
        return 0;
    }
    manager->ledger_segment = newest_segment(manager);
    path = segment_path(manager, manager->ledger_segment);
    if (path)
        (void) file_read(AT_FDCWD, path, FILE_MOST, &text, NULL);
    r = engine_record(manager->engine, (text ? last_decision(text) : 0) + 1);
    if (r >= 0 && segment_begin(manager) < 0)
        log_warning("decisions are not written to %s", directory);
    return r < 0 ? r : fiber_start(&manager->scribe, "scribe", scribe_main, manager);
}

/* --- all of it --------------------------------------------------------------------------------------------------------- */

struct export {
    struct manager *manager;
    uint64_t newest;
    struct buffer *out;
};

/* The last line may be being written: it is left out unless it is whole. */
static int export_job(void *userdata) {
    struct export *export = userdata;
    uint64_t oldest = export->newest > FILES ? export->newest - FILES : 0;

    for (uint64_t segment = oldest + 1; segment <= export->newest; segment++) {
        _cleanup_free_ char *path = segment_path(export->manager, segment), *text = NULL;
        const char *end;
        if (!path || file_read(AT_FDCWD, path, FILE_MOST, &text, NULL) < 0)
            continue; /* it went meanwhile */
        end = strrchr(text, '\n');
        if (end)
            buffer_add(export->out, text, (size_t) (end + 1 - text));
    }
    return export->out->failed ? -ENOMEM : 0;
}

int manager_ledger_write(struct manager *manager, struct buffer *out, struct error *error) {
    struct export export = { .manager = manager, .out = out };
    int r;

    ledger_flush(manager);
    export.newest = manager->ledger_segment;
    r = fiber_job(export_job, &export);
    return r < 0 ? error_errno(error, r, "reading the ledger") : 0;
}

struct search {
    struct manager *manager;
    const char *head, *part;
    uint64_t newest;
    bool last;
    struct buffer out;
};

static void search_text(struct search *search, const char *text) {
    size_t length = strlen(search->head);

    for (const char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        const char *part = strncmp(line, search->head, length) != 0 ? NULL : search->part ? strstr(line, search->part) : line;
        if (!part || part > end)
            continue;
        if (search->last)
            buffer_reset(&search->out);
        if (search->out.size > 0)
            buffer_add_text(&search->out, ",");
        buffer_add(&search->out, line, (size_t) (end - line));
    }
}

static int search_job(void *userdata) {
    struct search *search = userdata;
    uint64_t oldest = search->newest > FILES ? search->newest - FILES : 0;

    for (uint64_t segment = oldest + 1; segment <= search->newest; segment++) {
        _cleanup_free_ char *path = segment_path(search->manager, segment), *text = NULL;
        if (path && file_read(AT_FDCWD, path, FILE_MOST, &text, NULL) >= 0)
            search_text(search, text);
    }
    return search->out.failed ? -ENOMEM : 0;
}

int ledger_find_lines(struct manager *manager, const char *head, const char *part, bool last, char **ret) {
    struct search search = { .manager = manager, .head = head, .part = part, .last = last };
    int r;

    *ret = NULL;
    ledger_flush(manager);
    search.newest = manager->ledger_segment;
    r = fiber_job(search_job, &search);
    if (r >= 0 && search.out.size > 0)
        r = buffer_take(&search.out, ret);
    buffer_done(&search.out);
    return r;
}

struct lookup {
    struct manager *manager;
    uint64_t number, newest;
    char *recorded; /* found */
    char *again;    /* made again, if that was wanted */
    char *placement, *placed_again; /* the same of where it was placed; NULL if nothing is recorded of that */
    bool replay;
    struct error error;
};

/* All before the decision's line is done again. */
static int replay(char *text, uint64_t number, char **ret, struct error *error) {
    struct engine *engine = NULL;
    char *stop = find_line(text, "decision", number);
    int r = 0;

    for (char *line = text, *end; r >= 0 && line <= stop && (end = strchr(line, '\n')); line = end + 1) {
        _cleanup_json_ struct json_object *json = NULL;
        r = json_parse(line, (size_t) (end - line), &json, error);
        if (r >= 0)
            r = engine ? engine_repeat(engine, json, error) : engine_restore(json, &engine, error);
    }
    if (r >= 0) {
        const char *again = engine ? engine_decision(engine, number) : NULL;
        *ret = again ? strdup(again) : NULL;
    }
    engine_free(engine);
    return r;
}

/* Where it was placed is written after the decision, mostly into the same file; it is made again from its line alone. */
static int lookup_placement(struct lookup *lookup, char *text) {
    const char *line = find_line(text, "placement", lookup->number);
    _cleanup_json_ struct json_object *json = NULL;
    int r;

    if (!line)
        return 0;
    lookup->placement = strndup(line, strcspn(line, "\n"));
    if (!lookup->placement)
        return -ENOMEM;
    if (!lookup->replay)
        return 0;
    r = json_parse(lookup->placement, strlen(lookup->placement), &json, &lookup->error);
    return r < 0 ? r : placement_explain_again(json, &lookup->placed_again, &lookup->error);
}

static int lookup_job(void *userdata) {
    struct lookup *lookup = userdata;
    uint64_t oldest = lookup->newest > FILES ? lookup->newest - FILES : 0;

    for (uint64_t segment = lookup->newest; segment > oldest; segment--) {
        _cleanup_free_ char *path = segment_path(lookup->manager, segment), *text = NULL;
        char *line;
        int r;
        if (!path || file_read(AT_FDCWD, path, FILE_MOST, &text, NULL) < 0)
            continue;
        line = find_line(text, "decision", lookup->number);
        if (!line)
            continue;
        lookup->recorded = strndup(line, strcspn(line, "\n"));
        if (!lookup->recorded)
            return -ENOMEM;
        r = lookup_placement(lookup, text);
        return r >= 0 && lookup->replay ? replay(text, lookup->number, &lookup->again, &lookup->error) : r;
    }
    return -ENOENT;
}

static void emit_found(const struct lookup *lookup, const char *recorded, const char *placement,
                       struct emitter *emitter) {
    emit_object(emitter);
    emit_key(emitter, "decision");
    emit_raw(emitter, recorded);
    emit_key(emitter, "placement");
    if (placement)
        emit_raw(emitter, placement);
    else
        emit_null(emitter);
    if (lookup->replay && placement)
        emit_key_boolean(emitter, "placement_same", text_equal(placement, lookup->placed_again));
    if (lookup->replay) {
        emit_key_boolean(emitter, "same", text_equal(lookup->recorded, lookup->again));
        emit_key(emitter, "replayed");
        if (lookup->again)
            emit_raw(emitter, lookup->again);
        else
            emit_null(emitter);
    }
    emit_object_end(emitter);
}

int manager_decision_emit(struct manager *manager, uint64_t number, bool again, struct emitter *emitter,
                          struct error *error) {
    const char *kept = engine_decision(manager->engine, number);
    struct lookup lookup = { .manager = manager, .number = number, .replay = again };
    int r = 0;

    if (!kept || again) {
        ledger_flush(manager);
        lookup.newest = manager->ledger_segment;
        r = fiber_job(lookup_job, &lookup);
        kept = lookup.recorded;
    }
    if (r == -ENOENT) {
        _cleanup_free_ char *text = text_format("%" PRIu64, number);
        r = error_set(error, ERROR_NOT_FOUND, "decision", text);
    } else if (r < 0 && error_is_set(&lookup.error)) {
        error_move(error, &lookup.error);
    } else if (r < 0) {
        r = error_errno(error, r, "looking into the ledger");
    } else {
        emit_found(&lookup, kept, lookup.recorded ? lookup.placement : placement_kept(manager, number), emitter);
    }
    error_clear(&lookup.error);
    free(lookup.recorded);
    free(lookup.again);
    free(lookup.placement);
    free(lookup.placed_again);
    return r;
}
