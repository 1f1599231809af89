// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "store/internal.h"

/* Versions of the database. A new version is one more step at the end, STORE_SCHEMA one higher, and a fixture
 * of the version before in tests/unit/data. */

#define APPLICATION_ID "1349675108" /* "Pold" */

const char *const schema_steps[] = {
    /* 0 -> 1. A lease of 0 is none. */
    "CREATE TABLE item (key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL, revision INTEGER NOT NULL,"
    "  lease INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;"
    "CREATE INDEX item_lease ON item (lease) WHERE lease <> 0;"
    "CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL);"
    "CREATE TABLE counter (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) WITHOUT ROWID;"
    "INSERT INTO counter VALUES ('revision', 0);",
};

_Static_assert(ELEMENTS(schema_steps) == STORE_SCHEMA, "a step to each version");

static int refuse_damage(const char *problem, const char *path, struct error *error) {
    _cleanup_free_ char *good = text_format("%s.good", path);

    if (!good)
        return error_set(error, ERROR_NO_MEMORY);
    return error_set(error, ERROR_CORRUPT_STORE, problem, file_exists(AT_FDCWD, good) ? good : "none");
}

int schema_check(sqlite3 *db, const char *pragma, const char *path, char **ret_problem, struct error *error) {
    _cleanup_(statement_done) sqlite3_stmt *statement = NULL;
    _cleanup_free_ char *sql = text_format("PRAGMA %s(1)", pragma);
    const char *answer;
    int code;

    *ret_problem = NULL;
    if (!sql)
        return error_set(error, ERROR_NO_MEMORY);
    code = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    if (code != SQLITE_ROW)
        return database_error(db, code, path, error);
    answer = (const char *) sqlite3_column_text(statement, 0);
    if (text_equal(answer, "ok"))
        return 0;
    *ret_problem = strdup(answer ? answer : "the check gave no answer");
    return *ret_problem ? 0 : error_set(error, ERROR_NO_MEMORY);
}

/* A file without a version is new, unless something says that there was a store here before. */
static int check_new(sqlite3 *db, const char *path, struct error *error) {
    _cleanup_free_ char *good = text_format("%s.good", path);
    int64_t tables = 0;

    if (database_number(db, "SELECT count(*) FROM sqlite_schema", &tables) < 0)
        return database_error(db, sqlite3_errcode(db), path, error);
    if (tables > 0)
        return refuse_damage("it is a database of another program", path, error);
    if (good && file_exists(AT_FDCWD, good))
        return refuse_damage("it is empty, but there was a store here", path, error);
    return 0;
}

static int check_old(sqlite3 *db, const char *path, struct error *error) {
    _cleanup_free_ char *problem = NULL;
    int r = schema_check(db, "quick_check", path, &problem, error);

    if (r < 0)
        return r;
    return problem ? refuse_damage(problem, path, error) : 0;
}

static int run_steps(sqlite3 *db, const char *path, const char *const *steps, int from, int to,
                     struct error *error) {
    _cleanup_free_ char *version =
        text_format("PRAGMA user_version=%d; PRAGMA application_id=" APPLICATION_ID, to);
    int r;

    if (!version)
        return error_set(error, ERROR_NO_MEMORY);
    r = database_exec(db, "BEGIN EXCLUSIVE", path, error);
    for (int i = from; r == 0 && i < to; i++)
        r = database_exec(db, steps[i], path, error);
    if (r == 0)
        r = database_exec(db, version, path, error);
    FAILPOINT("schema-before-commit");
    if (r == 0)
        r = database_exec(db, "COMMIT", path, error);
    FAILPOINT("schema-after-commit");
    if (r < 0)
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return r;
}

static int refuse_newer(int64_t version, int count, struct error *error) {
    char theirs[24];
    char ours[24];

    snprintf(theirs, sizeof(theirs), "%" PRId64, version);
    snprintf(ours, sizeof(ours), "%d", count);
    return error_set(error, ERROR_NEWER_STORE, theirs, ours);
}

int schema_prepare(sqlite3 *db, const char *path, const char *const *steps, int count, struct error *error) {
    _cleanup_free_ char *copy = NULL;
    int64_t version;
    int r;

    if (database_number(db, "PRAGMA user_version", &version) < 0)
        return database_error(db, sqlite3_errcode(db), path, error);
    if (version < 0 || version > count)
        return refuse_newer(version, count, error);
    r = version == 0 ? check_new(db, path, error) : check_old(db, path, error);
    if (r < 0 || version == count)
        return r;
    if (version > 0) {
        copy = text_format("%s.schema-%" PRId64, path, version);
        if (!copy)
            return error_set(error, ERROR_NO_MEMORY);
        r = database_copy(db, path, copy, error);
        if (r < 0)
            return r;
        log_notice("the store goes from schema %" PRId64 " to %d; the old one is kept as %s", version, count,
                   copy);
    }
    return run_steps(db, path, steps, (int) version, count, error);
}

int schema_bring(sqlite3 *db, const char *path, struct error *error) {
#ifdef POLDER_FAILPOINTS
    const char *more = getenv("POLDER_SCHEMA_STEP"), *steps[STORE_SCHEMA + 1];

    if (more) {
        memcpy(steps, schema_steps, STORE_SCHEMA * sizeof(*steps));
        steps[STORE_SCHEMA] = more;
        return schema_prepare(db, path, steps, STORE_SCHEMA + 1, error);
    }
#endif
    return schema_prepare(db, path, schema_steps, STORE_SCHEMA, error);
}
