// SPDX-License-Identifier: GPL-2.0-or-later
/* load SOCKET PATH CONNECTIONS SECONDS: keep-alive GETs over a unix socket, one outstanding per connection. Prints requests
 * per second and the latency's median, p95 and p99 in microseconds. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES_MAX 4000000

struct connection {
    int fd;
    uint64_t sent; /* ns */
    size_t got, wanted;
    char head[4096];
};

static uint64_t now_ns(void) {
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t) time.tv_sec * 1000000000 + (uint64_t) time.tv_nsec;
}

static int connect_to(const char *path) {
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    if (fd < 0 || connect(fd, (struct sockaddr *) &address, sizeof(address)) < 0) {
        perror(path);
        exit(1);
    }
    return fd;
}

static void send_request(struct connection *connection, const char *request, size_t size) {
    connection->got = connection->wanted = 0;
    connection->sent = now_ns();
    if (write(connection->fd, request, size) != (ssize_t) size) {
        perror("write");
        exit(1);
    }
}

/* 1 when the reply is whole. */
static int receive(struct connection *connection) {
    char data[65536];
    ssize_t n = read(connection->fd, data, sizeof(data));

    if (n <= 0) {
        fprintf(stderr, "the server closed the connection\n");
        exit(1);
    }
    if (connection->wanted == 0) {
        char *end, *length;
        size_t head = connection->got, room = sizeof(connection->head) - 1 - head;
        memcpy(connection->head + head, data, (size_t) n < room ? (size_t) n : room);
        connection->head[head + ((size_t) n < room ? (size_t) n : room)] = '\0';
        end = strstr(connection->head, "\r\n\r\n");
        length = strcasestr(connection->head, "content-length:");
        if (end && strncmp(connection->head, "HTTP/1.1 200 ", 13) != 0) {
            fprintf(stderr, "refused: %.60s\n", connection->head);
            exit(1);
        }
        if (end && length)
            connection->wanted = (size_t) (end + 4 - connection->head) + strtoull(length + 15, NULL, 10);
    }
    connection->got += (size_t) n;
    return connection->wanted > 0 && connection->got >= connection->wanted;
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *) a, y = *(const uint32_t *) b;

    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    char request[1024];
    struct epoll_event events[64];
    int count = argc == 5 ? atoi(argv[3]) : 0, poll = epoll_create1(EPOLL_CLOEXEC);
    double seconds = argc == 5 ? atof(argv[4]) : 0;
    uint32_t *samples = malloc(SAMPLES_MAX * sizeof(*samples));
    struct connection *connections = calloc((size_t) count + 1, sizeof(*connections));
    size_t total = 0, size;
    uint64_t start, end;

    if (count < 1 || count > 1000 || seconds <= 0 || seconds > 60 || !samples || !connections) {
        fprintf(stderr, "usage: load SOCKET PATH CONNECTIONS SECONDS\n");
        return 2;
    }
    size = (size_t) snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: polder\r\n\r\n", argv[2]);
    start = now_ns();
    end = start + (uint64_t) (seconds * 1e9);
    for (int i = 0; i < count; i++) {
        struct epoll_event event = { .events = EPOLLIN, .data.ptr = &connections[i] };
        connections[i].fd = connect_to(argv[1]);
        epoll_ctl(poll, EPOLL_CTL_ADD, connections[i].fd, &event);
        send_request(&connections[i], request, size);
    }
    while (now_ns() < end) {
        int ready = epoll_wait(poll, events, 64, 1000);
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            if (!receive(connection))
                continue;
            if (total < SAMPLES_MAX)
                samples[total] = (uint32_t) ((now_ns() - connection->sent) / 1000);
            total++;
            send_request(connection, request, size);
        }
    }
    seconds = (double) (now_ns() - start) / 1e9;
    size = total < SAMPLES_MAX ? total : SAMPLES_MAX;
    qsort(samples, size, sizeof(*samples), compare);
    printf("{\"requests_per_second\": %.0f, \"median_us\": %u, \"p95_us\": %u, \"p99_us\": %u}\n", (double) total / seconds,
           size ? samples[size / 2] : 0, size ? samples[size * 95 / 100] : 0, size ? samples[size * 99 / 100] : 0);
    return 0;
}
