// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "store/internal.h"

/* Connections to the SQLite file, what their errors mean, and copies of it. */

#define EXIT_FSYNC 70

/* "path.good, of 2026-11-21T08:52:00.123Z", or "none". Allocated. */
static char *good_copy(const char *path) {
    _cleanup_free_ char *good = text_format("%s.good", path);
    char time[CLOCK_TEXT_SIZE];
    struct stat status;

    if (!good || stat(good, &status) < 0)
        return strdup("none");
    clock_format((uint64_t) status.st_mtim.tv_sec * CLOCK_SECOND, time);
    return text_format("%s, of %s", good, time);
}

bool database_is_full(sqlite3 *db, int code) {
    if ((code & 0xff) == SQLITE_FULL)
        return true;
    /* Growing the shared-memory file and some writes report a full disk only as an I/O error. */
    return (code & 0xff) == SQLITE_IOERR &&
           (sqlite3_system_errno(db) == ENOSPC || sqlite3_system_errno(db) == EDQUOT);
}

static bool is_sync_failure(int code) {
    return code == SQLITE_IOERR_FSYNC || code == SQLITE_IOERR_DIR_FSYNC;
}

int database_error(sqlite3 *db, int code, const char *path, struct error *error) {
    int extended = db ? sqlite3_extended_errcode(db) : code;
    const char *message = db ? sqlite3_errmsg(db) : sqlite3_errstr(code);

    if ((extended & 0xff) != (code & 0xff))
        extended = code;
    if (is_sync_failure(extended) || is_sync_failure(code)) {
        /* The kernel may have dropped what could not be written, and a second fsync would claim success. What
         * was acknowledged is in the log; only a fresh start reads it without the page cache's lie. */
        log_error("%s: writing to disk failed; ending at once, the next start recovers", path);
        _exit(EXIT_FSYNC);
    }
    if ((extended & 0xff) == SQLITE_PROTOCOL) {
        /* A lock that could not be given back: SQLite has tried for ten seconds, and nobody but us has this store. */
        log_error("%s: its locks do not come free; ending at once, the next start recovers", path);
        _exit(EXIT_FSYNC);
    }
    if (database_is_full(db, extended))
        return error_set(error, ERROR_NO_SPACE, "saving a change");
    switch (extended & 0xff) {
    case SQLITE_NOMEM:
        return error_set(error, ERROR_NO_MEMORY);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return error_set(error, ERROR_BUSY, "the store", "another process holds its lock");
    case SQLITE_READONLY:
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
        return error_set(error, ERROR_READ_ONLY_STORE, message);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: {
        _cleanup_free_ char *good = good_copy(path);

        return error_set(error, ERROR_CORRUPT_STORE, message, good);
    }
    default:
        return error_set(error, ERROR_INTERNAL, "the store", message);
    }
}

int database_rest(sqlite3 *db) {
    return sqlite3_get_autocommit(db) ? SQLITE_OK : sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
}

int database_exec(sqlite3 *db, const char *sql, const char *path, struct error *error) {
    int code = sqlite3_exec(db, sql, NULL, NULL, NULL);

    return code == SQLITE_OK ? 0 : database_error(db, code, path, error);
}

int database_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **ret, struct error *error) {
    int code = sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL);

    return code == SQLITE_OK ? 0 : database_error(db, code, sqlite3_db_filename(db, "main"), error);
}

int database_number(sqlite3 *db, const char *sql, int64_t *ret) {
    _cleanup_(statement_done) sqlite3_stmt *statement = NULL;

    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK ||
        sqlite3_step(statement) != SQLITE_ROW)
        return -EIO;
    *ret = sqlite3_column_int64(statement, 0);
    return 0;
}

/* synchronous=FULL makes each commit in WAL mode durable; checkpoints are the writer's own, after it has
 * answered. */
int database_open(const char *path, bool write, sqlite3 **ret, struct error *error) {
    static const char settings[] = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-512;"
                                   "PRAGMA trusted_schema=OFF; PRAGMA temp_store=MEMORY;"
                                   "PRAGMA journal_size_limit=8388608; PRAGMA wal_autocheckpoint=0";
    int flags =
        SQLITE_OPEN_NOMUTEX | (write ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY);
    sqlite3 *db = NULL;
    int code;
    int r = 0;

    code = sqlite3_open_v2(path, &db, flags, NULL);
    if (code == SQLITE_OK) {
        sqlite3_extended_result_codes(db, 1);
        sqlite3_busy_timeout(db, STORE_BUSY_MS);
        sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
        if (write)
            r = database_exec(db, settings, path, error);
        else
            r = database_exec(db, "PRAGMA cache_size=-512; PRAGMA trusted_schema=OFF", path, error);
    } else {
        r = database_error(db, code, path, error);
    }
    if (r < 0) {
        sqlite3_close_v2(db);
        return r;
    }
    *ret = db;
    return 0;
}

void database_close(sqlite3 *db) {
    sqlite3_close_v2(db);
}

static int vacuum_into(sqlite3 *db, const char *path, const char *target, struct error *error) {
    _cleanup_(statement_done) sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(db, "VACUUM INTO ?", -1, &statement, NULL);

    if (code == SQLITE_OK)
        code = sqlite3_bind_text(statement, 1, target, -1, SQLITE_STATIC);
    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    return code == SQLITE_DONE ? 0 : database_error(db, code, path, error);
}

/* Renames the finished copy into place, durably. */
static int install(const char *temporary, const char *target) {
    _cleanup_close_ int file = open(temporary, O_RDONLY | O_CLOEXEC);
    _cleanup_close_ int parent = -EBADF;
    const char *name;

    if (file < 0 || fsync(file) < 0)
        return -errno;
    if (rename(temporary, target) < 0)
        return -errno;
    parent = file_open_parent(AT_FDCWD, target, &name);
    if (parent < 0)
        return parent;
    return fsync(parent) < 0 ? -errno : 0;
}

int database_copy(sqlite3 *db, const char *path, const char *target, struct error *error) {
    _cleanup_free_ char *temporary = text_format("%s.tmp", target);
    _cleanup_close_ int fd = -EBADF;
    int r;

    if (!temporary)
        return error_set(error, ERROR_NO_MEMORY);
    if (unlink(temporary) < 0 && errno != ENOENT)
        return error_errno(error, -errno, "removing %s", temporary);
    /* SQLite takes an empty file that is there, which is how it gets its mode. */
    fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_errno(error, -errno, "creating %s", temporary);
    r = vacuum_into(db, path, temporary, error);
    if (r == 0) {
        r = install(temporary, target);
        if (r < 0)
            error_errno(error, r, "writing %s", target);
    }
    if (r < 0)
        unlink(temporary);
    return r;
}
