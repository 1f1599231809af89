// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/terminal.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"

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
