// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/fault.h"

#ifdef POLDER_FAILPOINTS

#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <string.h>
#include <time.h>

#include "base/failpoint.h"

/* Each file is our struct with SQLite's own file behind it; the methods are copied from SQLite's and those
 * below put in front. The open file carries its own method table because its version differs between kinds of
 * files. */

struct fault_file {
    sqlite3_file base;
    sqlite3_io_methods methods;
    sqlite3_file *real; /* lies behind this struct */
};

static struct fault faults;
static sqlite3_vfs fault_vfs;

struct fault *fault_now(void) {
    return &faults;
}

static sqlite3_file *real_of(sqlite3_file *file) {
    return ((struct fault_file *) file)->real;
}

static int f_close(sqlite3_file *file) {
    return real_of(file)->pMethods->xClose(real_of(file));
}

static int f_read(sqlite3_file *file, void *data, int size, sqlite3_int64 at) {
    return real_of(file)->pMethods->xRead(real_of(file), data, size, at);
}

static int f_write(sqlite3_file *file, const void *data, int size, sqlite3_int64 at) {
    int error = -FAILPOINT_ERROR("store-write");

    if (!error && atomic_load(&faults.write_error) && atomic_fetch_sub(&faults.write_from, 1) <= 1)
        error = atomic_load(&faults.write_error);
    if (error)
        return error == ENOSPC ? SQLITE_FULL : SQLITE_IOERR_WRITE;
    return real_of(file)->pMethods->xWrite(real_of(file), data, size, at);
}

static int f_truncate(sqlite3_file *file, sqlite3_int64 size) {
    if (FAILPOINT_ERROR("store-truncate"))
        return SQLITE_IOERR_TRUNCATE;
    return real_of(file)->pMethods->xTruncate(real_of(file), size);
}

static int f_sync(sqlite3_file *file, int flags) {
    int delay = atomic_load(&faults.sync_delay_ms);
    struct timespec time = { .tv_sec = delay / 1000, .tv_nsec = delay % 1000 * 1000000L };

    atomic_fetch_add(&faults.syncs, 1);
    if (delay > 0)
        nanosleep(&time, NULL);
    if (FAILPOINT_ERROR("store-sync") || atomic_load(&faults.sync_error))
        return SQLITE_IOERR_FSYNC;
    return real_of(file)->pMethods->xSync(real_of(file), flags);
}

static int f_file_size(sqlite3_file *file, sqlite3_int64 *size) {
    return real_of(file)->pMethods->xFileSize(real_of(file), size);
}

static int f_lock(sqlite3_file *file, int level) {
    return real_of(file)->pMethods->xLock(real_of(file), level);
}

static int f_unlock(sqlite3_file *file, int level) {
    return real_of(file)->pMethods->xUnlock(real_of(file), level);
}

static int f_check_reserved(sqlite3_file *file, int *result) {
    return real_of(file)->pMethods->xCheckReservedLock(real_of(file), result);
}

static int f_control(sqlite3_file *file, int operation, void *argument) {
    return real_of(file)->pMethods->xFileControl(real_of(file), operation, argument);
}

static int f_sector_size(sqlite3_file *file) {
    return real_of(file)->pMethods->xSectorSize(real_of(file));
}

static int f_characteristics(sqlite3_file *file) {
    return real_of(file)->pMethods->xDeviceCharacteristics(real_of(file));
}

static int f_shm_map(sqlite3_file *file, int page, int size, int extend, void volatile **ret) {
    return real_of(file)->pMethods->xShmMap(real_of(file), page, size, extend, ret);
}

static int f_shm_lock(sqlite3_file *file, int offset, int count, int flags) {
    return real_of(file)->pMethods->xShmLock(real_of(file), offset, count, flags);
}

static void f_shm_barrier(sqlite3_file *file) {
    real_of(file)->pMethods->xShmBarrier(real_of(file));
}

static int f_shm_unmap(sqlite3_file *file, int remove) {
    return real_of(file)->pMethods->xShmUnmap(real_of(file), remove);
}

static int f_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out_flags) {
    struct fault_file *fault = (struct fault_file *) file;
    sqlite3_vfs *real = vfs->pAppData;
    int code;

    memset(fault, 0, sizeof(*fault));
    fault->real = (sqlite3_file *) (fault + 1);
    code = real->xOpen(real, name, fault->real, flags, out_flags);
    if (!fault->real->pMethods)
        return code;
    /* Version 2 has shared memory and no mapped pages, so that every write passes here. */
    fault->methods = (sqlite3_io_methods){
        .iVersion = fault->real->pMethods->iVersion >= 2 ? 2 : 1,
        .xClose = f_close,
        .xRead = f_read,
        .xWrite = f_write,
        .xTruncate = f_truncate,
        .xSync = f_sync,
        .xFileSize = f_file_size,
        .xLock = f_lock,
        .xUnlock = f_unlock,
        .xCheckReservedLock = f_check_reserved,
        .xFileControl = f_control,
        .xSectorSize = f_sector_size,
        .xDeviceCharacteristics = f_characteristics,
        .xShmMap = f_shm_map,
        .xShmLock = f_shm_lock,
        .xShmBarrier = f_shm_barrier,
        .xShmUnmap = f_shm_unmap,
    };
    file->pMethods = &fault->methods;
    return code;
}

/* The other calls work on names and memory alone: with SQLite's own functions, given SQLite's own object. */
static int f_delete(sqlite3_vfs *vfs, const char *name, int sync) {
    sqlite3_vfs *real = vfs->pAppData;

    return real->xDelete(real, name, sync);
}

static int f_access(sqlite3_vfs *vfs, const char *name, int flags, int *result) {
    sqlite3_vfs *real = vfs->pAppData;

    return real->xAccess(real, name, flags, result);
}

static int f_full_path(sqlite3_vfs *vfs, const char *name, int size, char *out) {
    sqlite3_vfs *real = vfs->pAppData;

    return real->xFullPathname(real, name, size, out);
}

static void register_once(void) {
    sqlite3_vfs *real = sqlite3_vfs_find(NULL);

    if (!real) /* SQLite had no memory to begin with, and says so itself */
        return;
    fault_vfs = *real;
    fault_vfs.pNext = NULL;
    fault_vfs.zName = "polder-fault";
    fault_vfs.pAppData = real;
    fault_vfs.szOsFile = (int) sizeof(struct fault_file) + real->szOsFile;
    fault_vfs.xOpen = f_open;
    fault_vfs.xDelete = f_delete;
    fault_vfs.xAccess = f_access;
    fault_vfs.xFullPathname = f_full_path;
    sqlite3_vfs_register(&fault_vfs, 1);
}

void fault_register(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, register_once);
}

#endif
