// SPDX-License-Identifier: GPL-2.0-or-later
/* The connection to qemu-guest-agent. States: no connection -> connected, asking for synchronisation -> up.
 * The keeper fiber moves it forward; a command that fails in an unclear way moves it back, and the keeper
 * starts over.
 *
 * The keeper's synchronisation waits without a deadline: a request sent before the agent runs is kept by
 * QEMU and answered when it does, and asking again would only bring more answers. */
#include "drivers/qemu/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fiber.h"
#include "base/text.h"
#include "base/uuid.h"
#include "drivers/qemu/agent-internal.h"
#include "drivers/qemu/lines.h"
#include "drivers/qemu/socket.h"

#define BOOT_WAIT (180 * CLOCK_SECOND)
#define ASK_WAIT (5 * CLOCK_SECOND)
#define RETRY_PAUSE (1 * CLOCK_SECOND)
#define REFRESH_FIRST (5 * CLOCK_SECOND) /* addresses may come soon after the agent */
#define REFRESH_PAUSE (30 * CLOCK_SECOND)
#define REFRESH_EARLY 6
#define CLOCK_TRIES 3 /* connections in a row that are lost over the guest's clock; then other things have their turn */
#define HOSTNAME_MAX 255
#define INTERFACES_MAX 64
#define ADDRESSES_MAX 64
#define ADDRESS_SIZE_MAX 64
#define WORDS_MAX 400
#define SENTINEL '\xff' /* guest-sync-delimited puts it before its answer */

struct agent {
    unsigned references;
    int directory;
    char *name;
    void (*changed)(void *userdata); /* NULL once freed */
    void *userdata;
    struct fiber *keeper;
    int fd;
    bool up;
    bool freed;
    bool clock_due; /* the guest's clock is wrong, and nothing is asked of it before that is mended */
    unsigned clock_failures; /* connections lost over it */
    uint64_t started;
    struct line_reader lines;
    struct budget budget;
    struct fiber_mutex turn; /* whose command is under way */
    struct fiber_queue waiting;
    char *hostname;
    char **addresses;
};

struct agent *agent_ref(struct agent *agent) {
    agent->references++;
    return agent;
}

void agent_unref(struct agent *agent) {
    if (--agent->references > 0)
        return;
    close_fd(agent->fd);
    close_fd(agent->directory);
    line_reader_done(&agent->lines);
    fiber_unref(agent->keeper);
    free(agent->name);
    free(agent->hostname);
    list_free(agent->addresses);
    free(agent);
}

static void agent_unrefp(struct agent **agent) {
    if (*agent)
        agent_unref(*agent);
}

static void agent_lose(struct agent *agent) {
    bool was_up = agent->up;

    agent->up = false;
    if (agent->fd >= 0)
        (void) shutdown(agent->fd, SHUT_RDWR);
    fiber_queue_wake_all(&agent->waiting);
    if (was_up && agent->changed)
        agent->changed(agent->userdata);
}

/* --- one exchange --------------------------------------------------------------------------------------- */

static char *request_text(const char *command, const char *arguments) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);
    char *text = NULL;

    emit_object(&emitter);
    emit_key_text(&emitter, "execute", command);
    if (arguments) {
        emit_key(&emitter, "arguments");
        emit_raw(&emitter, arguments);
    }
    emit_object_end(&emitter);
    buffer_add_char(&out, '\n');
    return buffer_take(&out, &text) < 0 ? NULL : text;
}

/* The next line that is a JSON object, or NULL in *ret if it was none. */
static int line_take(struct agent *agent, const char *line, size_t size, bool delimited,
                     struct json_object **ret) {
    const char *sentinel = memrchr(line, SENTINEL, size);

    *ret = NULL;
    if (delimited && !sentinel)
        return 0;
    if (sentinel) {
        size -= (size_t) (sentinel + 1 - line);
        line = sentinel + 1;
    }
    if (json_parse_foreign(line, size, ret, NULL) < 0)
        return delimited ? 0 : -EBADMSG;
    if (json_object_is_type(*ret, json_type_object))
        return 0;
    json_put(*ret);
    *ret = NULL;
    return delimited ? 0 : -EBADMSG;
}

static int reply_read(struct agent *agent, bool delimited, uint64_t deadline, struct json_object **ret) {
    char data[4096];
    int r = 0;

    for (;;) {
        size_t size;
        char *line = line_reader_next(&agent->lines, &size);
        long n;

        if (line) {
            r = budget_take(&agent->budget); /* also for what nobody asked for */
            if (r < 0)
                return r;
            r = line_take(agent, line, size, delimited, ret);
            line_reader_drop(&agent->lines, size);
            if (r < 0 || *ret)
                return r;
            continue;
        }
        n = fiber_read(agent->fd, data, sizeof(data), deadline);
        if (n <= 0)
            return n < 0 ? (int) n : -ECONNRESET;
        r = line_reader_add(&agent->lines, data, (size_t) n);
        if (r < 0)
            return r;
        if (fiber_yield() < 0)
            return -ECANCELED;
    }
}

static int agent_sync(struct agent *agent) {
    uint32_t number;
    int r = 0;

    random_bytes(&number, sizeof(number));
    number &= 0x7fffffff;
    _cleanup_free_ char *text =
            text_format("\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%u}}\n", number);
    if (!text)
        return -ENOMEM;
    r = socket_send(agent->fd, text, strlen(text), -1, deadline_in(AGENT_DEADLINE));
    while (r >= 0) {
        _cleanup_json_ struct json_object *reply = NULL;

        r = reply_read(agent, true, DEADLINE_NONE, &reply);
        if (r >= 0 && json_integer(reply, "return", -1) == number)
            return 0;
    }
    return r;
}

static int reply_result(struct json_object *reply, struct json_object **ret, struct error *error) {
    struct json_object *failure = json_member(reply, "error");
    _cleanup_free_ char *words = NULL;
    const char *text;

    if (!failure) {
        if (ret)
            *ret = json_object_get(json_member(reply, "return"));
        return 0;
    }
    text = json_text(failure, "desc", "no reason given");
    words = text_escape(text, strnlen(text, WORDS_MAX), false);
    return error_set(error, ERROR_GUEST, words);
}

static int call_locked(struct agent *agent, const char *text, struct json_object **ret, struct error *error) {
    _cleanup_json_ struct json_object *reply = NULL;
    uint64_t deadline = deadline_in(AGENT_DEADLINE);
    int r;

    if (!agent->up)
        return error_set(error, ERROR_GUEST, "its agent does not answer");
    r = socket_send(agent->fd, text, strlen(text), -1, deadline);
    if (r >= 0)
        r = reply_read(agent, false, deadline, &reply);
    if (r >= 0)
        return reply_result(reply, ret, error);
    /* Whatever comes now would be taken for the answer to the next command. */
    agent_lose(agent);
    if (r == -ECANCELED)
        return error_errno(error, r, "asking the guest agent");
    return error_set(error, ERROR_GUEST, r == -ETIMEDOUT ? "its agent did not answer within 5 seconds"
                                                         : "its agent answered what is no answer");
}

/* A busy guest may not answer in time: then the connection is lost, and its clock may be wrong still. So it is told again
 * over the next one. */
static void clock_set_locked(struct agent *agent) {
    _cleanup_free_ char *arguments = NULL, *text = NULL;

    if (!agent->clock_due || !agent->up)
        return;
    arguments = text_format("{\"time\":%llu}", (unsigned long long) clock_wall() * 1000);
    text = arguments ? request_text("guest-set-time", arguments) : NULL;
    if (!text)
        return;
    agent->clock_due = false;
    (void) call_locked(agent, text, NULL, NULL);
    if (agent->up)
        agent->clock_failures = 0;
    else if (++agent->clock_failures < CLOCK_TRIES)
        agent->clock_due = true;
}

int agent_call(struct agent *given, const char *command, const char *arguments, struct json_object **ret,
               struct error *error) {
    _cleanup_(agent_unrefp) struct agent *agent = agent_ref(given);
    _cleanup_free_ char *text = request_text(command, arguments);
    int r;

    if (!text)
        return error_errno(error, -ENOMEM, "asking the guest agent");
    r = budget_take(&agent->budget);
    if (r < 0)
        return error_errno(error, r, "asking the guest agent");
    r = fiber_mutex_lock(&agent->turn, deadline_in(2 * AGENT_DEADLINE));
    if (r < 0)
        return error_errno(error, r, "asking the guest agent");
    clock_set_locked(agent);
    r = call_locked(agent, text, ret, error);
    fiber_mutex_unlock(&agent->turn);
    return r;
}

int agent_wait_up(struct agent *given, struct error *error) {
    _cleanup_(agent_unrefp) struct agent *agent = agent_ref(given);
    uint64_t soon = deadline_in(ASK_WAIT), boot = agent->started + BOOT_WAIT;
    int r = 0;

    while (r >= 0 && !agent->up && !agent->freed)
        r = fiber_queue_wait(&agent->waiting, soon > boot ? soon : boot);
    if (agent->up)
        return 0;
    if (r == -ECANCELED)
        return error_errno(error, r, "waiting for the guest agent");
    return error_set(error, ERROR_GUEST,
                     "its agent does not answer; is qemu-guest-agent installed and running?");
}

/* --- what it tells -------------------------------------------------------------------------------------- */

static bool hostname_refresh(struct agent *agent) {
    _cleanup_json_ struct json_object *reply = NULL;
    const char *name;

    if (agent_call(agent, "guest-get-host-name", NULL, &reply, NULL) < 0)
        return false;
    name = json_text(reply, "host-name", "");
    if (strlen(name) > HOSTNAME_MAX || text_equal(name, agent->hostname))
        return false;
    free(agent->hostname);
    agent->hostname = strdup(name);
    return true;
}

static bool address_is_of_interest(const char *text) {
    return strlen(text) <= ADDRESS_SIZE_MAX && text_is_plain(text) && !text_starts(text, "127.") &&
           !text_equal(text, "::1") && !text_starts(text, "fe80:");
}

static void interface_take(struct json_object *interface, char ***list) {
    struct json_object *array = json_member(interface, "ip-addresses");
    size_t count = json_object_is_type(array, json_type_array) ? json_object_array_length(array) : 0;

    for (size_t i = 0; i < count && i < ADDRESSES_MAX && list_count(*list) < ADDRESSES_MAX; i++) {
        const char *text = json_text(json_object_array_get_idx(array, i), "ip-address", "");

        if (address_is_of_interest(text) && *text && list_add(list, text) < 0)
            return;
    }
}

static bool addresses_refresh(struct agent *agent) {
    _cleanup_json_ struct json_object *reply = NULL;
    _cleanup_list_ char **list = NULL;
    size_t count;

    if (agent_call(agent, "guest-network-get-interfaces", NULL, &reply, NULL) < 0)
        return false;
    count = json_object_is_type(reply, json_type_array) ? json_object_array_length(reply) : 0;
    for (size_t i = 0; i < count && i < INTERFACES_MAX; i++)
        interface_take(json_object_array_get_idx(reply, i), &list);
    if (list_equal(list, agent->addresses))
        return false;
    list_free(agent->addresses);
    agent->addresses = STEAL_PTR(list);
    return true;
}

/* --- its clock ------------------------------------------------------------------------------------------ */

void agent_set_clock(struct agent *given) {
    _cleanup_(agent_unrefp) struct agent *agent = agent_ref(given);

    agent->clock_due = true;
    agent->clock_failures = 0;
    if (!agent->up || fiber_mutex_lock(&agent->turn, deadline_in(2 * AGENT_DEADLINE)) < 0)
        return; /* whoever has the next turn does it */
    clock_set_locked(agent);
    fiber_mutex_unlock(&agent->turn);
}

/* --- the keeper ----------------------------------------------------------------------------------------- */

static int keeper_connect(struct agent *agent) {
    int r;

    agent->fd = close_fd(agent->fd);
    line_reader_reset(&agent->lines);
    r = socket_connect(agent->directory, agent->name);
    if (r < 0)
        return r;
    agent->fd = r;
    r = agent_sync(agent);
    if (r < 0)
        return r;
    agent->up = true;
    clock_set_locked(agent);
    fiber_queue_wake_all(&agent->waiting);
    if (agent->changed)
        agent->changed(agent->userdata);
    return 0;
}

static void keeper_refresh(struct agent *agent) {
    unsigned rounds = 0;

    while (agent->up && !agent->freed) {
        bool named = hostname_refresh(agent), addressed = addresses_refresh(agent);

        if ((named || addressed) && agent->changed)
            agent->changed(agent->userdata);
        if (fiber_queue_wait(&agent->waiting,
                             deadline_in(rounds++ < REFRESH_EARLY ? REFRESH_FIRST : REFRESH_PAUSE)) ==
            -ECANCELED)
            return;
    }
}

static int keeper_main(void *userdata) {
    _cleanup_(agent_unrefp) struct agent *agent = userdata;

    while (!agent->freed) {
        int r = fiber_mutex_lock(&agent->turn, DEADLINE_NONE);

        if (r < 0)
            break;
        r = keeper_connect(agent);
        fiber_mutex_unlock(&agent->turn);
        if (r >= 0)
            keeper_refresh(agent);
        if (agent->freed || fiber_sleep(RETRY_PAUSE) < 0)
            break;
    }
    return 0;
}

/* --- life ----------------------------------------------------------------------------------------------- */

int agent_new(int directory, const char *name, void (*changed)(void *userdata), void *userdata,
              struct agent **ret) {
    _cleanup_(agent_unrefp) struct agent *agent = calloc(1, sizeof(*agent));
    int r;

    if (!agent)
        return -ENOMEM;
    agent->references = 1;
    agent->fd = -EBADF;
    agent->changed = changed;
    agent->userdata = userdata;
    agent->started = clock_now();
    budget_set(&agent->budget, 0, BUDGET_RATE);
    agent->lines = (struct line_reader) LINE_READER_INIT(AGENT_LINE_MAX);
    agent->name = strdup(name);
    agent->directory = fcntl(directory, F_DUPFD_CLOEXEC, 3);
    if (!agent->name || agent->directory < 0)
        return agent->name ? -errno : -ENOMEM;
    r = fiber_start(&agent->keeper, "agent", keeper_main, agent);
    if (r < 0)
        return r;
    (void) agent_ref(agent); /* the keeper's */
    *ret = STEAL_PTR(agent);
    return 0;
}

void agent_free(struct agent *agent) {
    if (!agent)
        return;
    agent->freed = true;
    agent->changed = NULL;
    agent_lose(agent);
    fiber_cancel(agent->keeper);
    agent_unref(agent);
}

struct budget *agent_budget(struct agent *agent) {
    return &agent->budget;
}

bool agent_is_up(const struct agent *agent) {
    return agent && agent->up;
}

const char *agent_hostname(const struct agent *agent) {
    return agent->hostname;
}

char *const *agent_addresses(const struct agent *agent) {
    return agent->addresses;
}
