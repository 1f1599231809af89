// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/terminal.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"

#define BAR_WIDTH 24
#define FIRST_DRAWN CLOCK_SECOND /* what is over sooner shows nothing */
#define DRAWN_EVERY (200 * CLOCK_MILLISECOND)

/* What standard input was before raw mode; atexit handlers take no arguments. */
static struct termios saved;
static bool is_raw;

bool terminal_has_colours(FILE *file) {
    const char *none = getenv("NO_COLOR"), *term = getenv("TERM");

    return isatty(fileno(file)) && (!none || !*none) && !(term && !strcmp(term, "dumb"));
}

bool terminal_size(uint16_t *ret_rows, uint16_t *ret_columns) {
    struct winsize size;

    for (int fd = 0; fd < 3; fd++)
        if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0) {
            *ret_rows = size.ws_row;
            *ret_columns = size.ws_col;
            return true;
        }
    return false;
}

bool terminal_raw(void) {
    struct termios raw;

    if (is_raw || tcgetattr(STDIN_FILENO, &saved) < 0)
        return is_raw;
    raw = saved;
    cfmakeraw(&raw);
    if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) < 0)
        return false;
    is_raw = true;
    (void) atexit(terminal_restore);
    return true;
}

void terminal_restore(void) {
    if (is_raw)
        (void) tcsetattr(STDIN_FILENO, TCSADRAIN, &saved);
    is_raw = false;
}

void print_escaped(FILE *file, const char *text, size_t size, bool lines) {
    _cleanup_free_ char *safe = text_escape(text, size, lines);

    if (safe)
        fputs(safe, file);
}

void show_error(const struct error *error, enum language language) {
    _cleanup_free_ char *sentence = error_sentence(error, language);
    bool colours = terminal_has_colours(stderr);

    fprintf(stderr, colours ? "\033[31mpolder:\033[0m " : "polder: ");
    if (sentence)
        print_escaped(stderr, sentence, strlen(sentence), true);
    fputc('\n', stderr);
}

void show_note(const char *format, ...) {
    _cleanup_free_ char *text = NULL;
    va_list arguments;

    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) < 0)
        text = NULL;
    va_end(arguments);
    fputs("polder: ", stderr);
    if (text)
        print_escaped(stderr, text, strlen(text), true);
    fputc('\n', stderr);
}

/* --- bars ---------------------------------------------------------------------------------------------------------- */

void show_bar(const char *subject, const char *step, uint64_t done, uint64_t total, bool bytes) {
    _cleanup_free_ char *some = bytes ? text_format_size(done) : NULL, *all = bytes ? text_format_size(total) : NULL;
    unsigned filled = total > 0 ? (unsigned) (done >= total ? BAR_WIDTH : done * BAR_WIDTH / total) : 0;

    clear_bar();
    print_escaped(stderr, subject, strlen(subject), false);
    fputs(": ", stderr);
    print_escaped(stderr, step, strlen(step), false);
    if (total > 0) {
        fputs(" [", stderr);
        for (unsigned i = 0; i < BAR_WIDTH; i++)
            fputc(i < filled ? '=' : ' ', stderr);
        fprintf(stderr, "] %u%%", (unsigned) (done >= total ? 100 : done * 100 / total));
    }
    if (some && all)
        fprintf(stderr, total > 0 ? " %s of %s" : " %s", some, all);
    fflush(stderr);
}

void clear_bar(void) {
    fputs("\r\033[K", stderr);
}

void transfer_begin(struct transfer *transfer, bool quiet, const char *subject, const char *step, uint64_t total) {
    *transfer = (struct transfer){
        .subject = subject, .step = step, .total = total, .next = clock_now() + FIRST_DRAWN,
        .shown = !quiet && isatty(STDERR_FILENO),
    };
}

void transfer_add(struct transfer *transfer, size_t bytes) {
    uint64_t now;

    transfer->done += bytes;
    if (!transfer->shown || (now = clock_now()) < transfer->next)
        return;
    transfer->next = now + DRAWN_EVERY;
    show_bar(transfer->subject, transfer->step, transfer->done, transfer->total, true);
    transfer->drawn = true;
}

void transfer_end(struct transfer *transfer) {
    if (transfer->drawn) {
        clear_bar();
        fflush(stderr);
    }
    transfer->drawn = transfer->shown = false;
}
