// SPDX-License-Identifier: GPL-2.0-or-later
/* For tests: "udp serve PORT" answers each packet with what came and from where; "udp ask ADDRESS PORT WORD" asks until an
 * answer comes, and prints it. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static int serve(int fd, struct sockaddr_in *address) {
    if (bind(fd, (struct sockaddr *) address, sizeof(*address)) < 0)
        return 1;
    for (;;) {
        struct sockaddr_in from;
        socklen_t size = sizeof(from);
        char word[64], text[128];
        ssize_t length = recvfrom(fd, word, sizeof(word), 0, (struct sockaddr *) &from, &size);
        if (length < 0)
            return 1;
        length = snprintf(text, sizeof(text), "%.*s from %s", (int) length, word, inet_ntoa(from.sin_addr));
        (void) sendto(fd, text, (size_t) length, 0, (struct sockaddr *) &from, size);
    }
}

static int ask(int fd, const struct sockaddr_in *address, const char *word) {
    const struct timeval patience = { .tv_sec = 2 };
    char text[128];

    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ||
        connect(fd, (const struct sockaddr *) address, sizeof(*address)) < 0)
        return 1;
    for (int i = 0; i < 15; i++) {
        ssize_t length = send(fd, word, strlen(word), 0) < 0 ? -1 : recv(fd, text, sizeof(text), 0);
        if (length > 0)
            return printf("%.*s\n", (int) length, text) < 0;
        if (i % 2) /* refused at once, perhaps */
            sleep(1);
    }
    return 1;
}

int main(int count, char **words) {
    struct sockaddr_in address = { .sin_family = AF_INET };
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    if (fd >= 0 && count == 3 && strcmp(words[1], "serve") == 0) {
        address.sin_port = htons((unsigned short) atoi(words[2]));
        return serve(fd, &address);
    }
    if (fd >= 0 && count == 5 && strcmp(words[1], "ask") == 0 && inet_aton(words[2], &address.sin_addr)) {
        address.sin_port = htons((unsigned short) atoi(words[3]));
        return ask(fd, &address, words[4]);
    }
    return 2;
}
