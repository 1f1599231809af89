// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/nft.h"

#include <dlfcn.h>
#include <malloc.h>
#include <nftables/libnftables.h>
#include <stddef.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fiber.h"
#include "base/text.h"

#define NFT_LIBRARY "libnftables.so.1"

struct library {
    __typeof__(nft_ctx_new) *ctx_new;
    __typeof__(nft_ctx_free) *ctx_free;
    __typeof__(nft_ctx_buffer_output) *buffer_output;
    __typeof__(nft_ctx_buffer_error) *buffer_error;
    __typeof__(nft_ctx_get_output_buffer) *output;
    __typeof__(nft_ctx_get_error_buffer) *errors;
    __typeof__(nft_ctx_output_set_flags) *set_flags;
    __typeof__(nft_run_cmd_from_buffer) *run;
};

static const struct {
    const char *name;
    size_t offset;
} symbols[] = {
    { "nft_ctx_new", offsetof(struct library, ctx_new) },
    { "nft_ctx_free", offsetof(struct library, ctx_free) },
    { "nft_ctx_buffer_output", offsetof(struct library, buffer_output) },
    { "nft_ctx_buffer_error", offsetof(struct library, buffer_error) },
    { "nft_ctx_get_output_buffer", offsetof(struct library, output) },
    { "nft_ctx_get_error_buffer", offsetof(struct library, errors) },
    { "nft_ctx_output_set_flags", offsetof(struct library, set_flags) },
    { "nft_run_cmd_from_buffer", offsetof(struct library, run) },
};

/* What a call used and nobody needs any more. Closing its socket waits until the kernel has freed what the transaction
 * took out, which is several milliseconds: so nobody waits for that. */
struct used {
    __typeof__(nft_ctx_free) *free;
    struct nft_ctx *context;
    bool trim; /* a host's whole ruleset may have been large */
};

struct call {
    const char *commands;
    struct used *used;
    bool json;
    char *output;
    char *complaint; /* what went wrong, allocated */
    bool no_library;
};

/* The handle is kept: loading again is then a look-up. */
static int library_load(struct library *ret) {
    void *handle = dlopen(NFT_LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);

    if (!handle)
        return -ENOENT;
    for (size_t i = 0; i < ELEMENTS(symbols); i++) {
        void **symbol = (void **) ((char *) ret + symbols[i].offset);

        *symbol = dlsym(handle, symbols[i].name);
        if (!*symbol)
            return -ENOENT;
    }
    return 0;
}

/* The first line says what; the rest draws arrows under our own text. */
static char *first_line(const char *text) {
    return text_escape(text ? text : "", strcspn(text ? text : "", "\n"), false);
}

static int used_job(void *userdata) {
    struct used *used = userdata;

    used->free(used->context);
    if (used->trim)
        (void) malloc_trim(0);
    free(used);
    return 0;
}

static int used_main(void *userdata) {
    return fiber_job(used_job, userdata);
}

static int call_main(void *userdata) {
    struct call *call = userdata;
    struct library library;
    struct nft_ctx *context;
    int r;

    if (library_load(&library) < 0) {
        call->no_library = true;
        return -EOPNOTSUPP;
    }
    context = library.ctx_new(NFT_CTX_DEFAULT);
    call->used = context ? calloc(1, sizeof(*call->used)) : NULL;
    if (!call->used) {
        if (context)
            library.ctx_free(context);
        return -ENOMEM;
    }
    *call->used = (struct used){ .free = library.ctx_free, .context = context, .trim = call->json };
    r = library.buffer_output(context) || library.buffer_error(context) ? -ENOMEM : 0;
    if (call->json)
        library.set_flags(context, NFT_CTX_OUTPUT_JSON);
    if (r == 0 && library.run(context, call->commands) != 0) {
        call->complaint = first_line(library.errors(context));
        r = -EIO;
    }
    if (r == 0 && call->json) {
        call->output = strdup(library.output(context));
        r = call->output ? 0 : -ENOMEM;
    }
    return r;
}

static int call_run(struct call *call, struct error *error) {
    int r = fiber_job(call_main, call);

    if (call->used && fiber_start(NULL, "nftables", used_main, call->used) < 0)
        (void) used_job(call->used);
    if (r == 0)
        return 0;
    if (call->no_library)
        error_set(error, ERROR_HOST_LACKS, NFT_LIBRARY, "install the package libnftables1");
    else if (call->complaint)
        error_set(error, ERROR_PROGRAM_FAILED, "nftables", call->complaint);
    else
        error_errno(error, r, "nftables");
    free(call->complaint);
    return r;
}

int nft_run(const char *commands, struct error *error) {
    struct call call = { .commands = commands };

    return call_run(&call, error);
}

int nft_query(const char *command, char **ret_json, struct error *error) {
    struct call call = { .commands = command, .json = true };
    int r = call_run(&call, error);

    if (r == 0)
        *ret_json = call.output;
    return r;
}

int nft_list(char **ret_json, struct error *error) {
    return nft_query("list ruleset", ret_json, error);
}
