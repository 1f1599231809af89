// SPDX-License-Identifier: GPL-2.0-or-later
#include "drivers/stream.h"

#include <errno.h>

long stream_read(struct stream *stream, enum stream_channel *ret_channel, void *data, size_t size, uint64_t deadline) {
    return stream->operations->read ? stream->operations->read(stream, ret_channel, data, size, deadline) : -EOPNOTSUPP;
}

int stream_write(struct stream *stream, const void *data, size_t size, uint64_t deadline) {
    return stream->operations->write ? stream->operations->write(stream, data, size, deadline) : -EOPNOTSUPP;
}

int stream_close_input(struct stream *stream) {
    return stream->operations->close_input ? stream->operations->close_input(stream) : -EOPNOTSUPP;
}

int stream_resize(struct stream *stream, uint16_t rows, uint16_t columns) {
    return stream->operations->resize ? stream->operations->resize(stream, rows, columns) : -EOPNOTSUPP;
}

int stream_signal(struct stream *stream, int number) {
    return stream->operations->signal ? stream->operations->signal(stream, number) : -EOPNOTSUPP;
}

int stream_result(struct stream *stream, int *ret_code, struct error *error, uint64_t deadline) {
    if (stream->operations->result)
        return stream->operations->result(stream, ret_code, error, deadline);
    *ret_code = 0;
    return 0;
}

void stream_free(struct stream *stream) {
    if (stream)
        stream->operations->free(stream);
}
