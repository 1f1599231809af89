// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdint.h>

/* The wire between polderd and polder-guest, our static init and agent inside a microVM.
 *
 * It runs over the virtio-serial port named GUEST_PORT_NAME. Both sides send frames: a fixed 12-byte
 * little-endian header, then `length` bytes of payload. A frame belongs to a channel: channel 0 is the
 * connection itself, GUEST_CHANNEL_MAIN is the instance's main process, and the daemon gives every exec
 * and archive transfer a fresh channel number from GUEST_CHANNEL_FIRST on. JSON payloads are UTF-8
 * objects; everything that the other side sends is untrusted and capped.
 *
 * The guest never loses the result of a process: GUEST_EXIT is sent again after every GUEST_HELLO
 * until the daemon has sent GUEST_ACK on that channel, and while no daemon listens the last
 * GUEST_BACKLOG bytes of the main process's output are kept and sent after the next GUEST_HELLO.
 * The connection may break at any byte: after each (re)connection the daemon sends GUEST_HELLO whose
 * payload starts with GUEST_MAGIC, and a guest that waits for a hello skips bytes until a complete
 * hello frame is found; the same holds the other way round.
 * A guest that never saw the break (the port reports only the present state) finds the new hello behind
 * an unfinished frame: it believes it once nothing came behind it for a quarter of a second. So the daemon
 * sends nothing after its hello until the answer with its own nonce has come.
 *
 * What a hello means for the guest's channels: the windows of both directions begin anew. MAIN goes on: what
 * was not credited is sent again, GUEST_STATE says from which byte on ("output_offset"), so that a daemon
 * that counts can drop what it has already. An exec goes on without its client: its stdin ends, its output is
 * dropped, its exit is told. A transfer is given up and forgotten. Input not written yet is dropped.
 *
 * A request that the guest cannot take is answered with GUEST_ERROR on its channel; an EXEC, GET or PUT so
 * answered has opened no channel and has no exit. Unknown JSON fields are such an error. */

#define GUEST_PORT_NAME "org.polder.guest.0"
#define GUEST_PROTOCOL_VERSION 1
#define GUEST_HEADER_SIZE 12
#define GUEST_FRAME_MAX (64 * 1024)  /* payload bytes of one frame, both ways */
#define GUEST_BACKLOG (256 * 1024)   /* bytes of main-process output kept while nobody listens */
#define GUEST_MAGIC "polder-guest/1 " /* the payload of a hello, then 32 hex digits of a fresh nonce */
#define GUEST_CHANNEL_MAIN 1
#define GUEST_CHANNEL_FIRST 16

/* Header on the wire: u32 length, u8 type, u8 flags (0), u16 zero, u32 channel. */
struct guest_header {
    uint32_t length;
    uint8_t type;
    uint32_t channel;
};

enum guest_frame {
    GUEST_HELLO = 1,   /* both; magic + nonce. The guest answers with the same nonce, then GUEST_STATE */
    GUEST_STATE = 2,   /* guest; JSON {version, booted, started, boot_id, kernel, addresses:["10.1.2.3/24"],
                          channels:[numbers in use], and once started: exited, output_offset (bytes of MAIN's
                          stdout and stderr together before the first that will be sent)} */
    GUEST_START = 3,   /* daemon, channel MAIN; JSON, see below; repeated after a daemon restart: harmless */
    GUEST_EXEC = 4,    /* daemon, new channel; JSON process object */
    GUEST_STDIN = 5,   /* daemon; bytes, an empty frame closes stdin (on a terminal: its EOF character) */
    GUEST_STDOUT = 6,  /* guest; bytes, an empty frame says end of file */
    GUEST_STDERR = 7,  /* guest; likewise (never sent for a tty) */
    GUEST_EXIT = 8,    /* guest, after all output; JSON {"code":N} or {"code":128+N,"signal":N} or
                          {"code":C,"error":"…"}: not started, C = 127 not found, 126 not executable (or bad
                          user, working directory), 125 on MAIN: no set-up; 1: a transfer failed */
    GUEST_ACK = 9,     /* daemon; the exit of this channel is durable, forget it. On MAIN: power off */
    GUEST_SIGNAL = 10, /* daemon; JSON {"signal":15} */
    GUEST_RESIZE = 11, /* daemon; JSON {"rows":24,"columns":80} */
    GUEST_CLOCK = 12,  /* daemon, channel 0; JSON {"realtime_us":…, "entropy":"base64 of 32 bytes"}: set the
                          clock, reseed the kernel's generator (after boot, resume and clone) */
    GUEST_GET = 13,    /* daemon, new channel; JSON {"path":"/x"}: guest sends a tar on STDOUT, then EXIT */
    GUEST_PUT = 14,    /* daemon, new channel; JSON {"path":"/dir"}: daemon sends a tar stream on STDIN, guest
                          unpacks beneath path, then EXIT */
    GUEST_CREDIT = 15, /* both; u32 LE: the receiver has taken that many bytes of this channel's stream. Each
                          direction of a channel may have GUEST_WINDOW unacknowledged bytes under way (stdout
                          and stderr together), so one channel that nobody reads never stops another.
                          A frame beyond the window is refused with GUEST_ERROR */
    GUEST_POWER = 16,  /* daemon, channel 0; JSON {"action":"poweroff","grace_ms":10000}: stop_signal to MAIN,
                          TERM to the execs, KILL after grace_ms; the exit is told and waits for its ACK
                          for at most 5 s; sync, power off */
    GUEST_MEMORY = 17, /* daemon asks (empty payload), guest answers on the same channel with JSON {total,
                          free, available, buffers, cached, shared, swap_total, swap_free} in bytes */
    GUEST_ERROR = 18,  /* guest; JSON {"error":"…"}: a request it could not take */
};
#define GUEST_WINDOW (256 * 1024)

/* GUEST_START: {
 *   "process": PROCESS, "hostname": "…", "stop_signal": 15,
 *   "network": [{"mac":"52:…","address":"10.1.2.3/24","gateway":"10.1.2.1","mtu":1500}],  may be empty
 *   "dns": ["10.1.2.1"], "search": "polder.internal", "hosts": [{"address":"…","name":"…"}],
 *   "mounts": [{"type":"virtiofs","tag":"m0","target":"/data","readonly":false},
 *              {"type":"tmpfs","target":"/x","size":1048576}],
 *   "readonly_root": false, "realtime_us": …, "entropy": "base64" }
 * PROCESS: { "args": ["…"], "env": ["A=b"], "user": "name|uid[:group|gid]", "cwd": "/", "tty": false,
 *   "stdin": false, "rows": 24, "columns": 80 }
 * MAIN is pid 1 of a pid namespace of its own: what it finds is what a container finds, its end ends all
 * processes of the instance, and `poweroff` inside ends MAIN with SIGINT, `reboot` with SIGHUP. An exec whose
 * process ended is over, also if something it left behind still holds its stdout.
 * Several network rows with one mac give that interface several addresses. /run and /tmp are the image's own.
 * Root of the instance: /dev/vda, read-only EROFS; /dev/vdb, if present, is the writable ext4 disk (its file
 * system was made by the host); without it a tmpfs holds the changes. */
