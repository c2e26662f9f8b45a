/* PWP/1 on the wire: the few MessagePack types that frames use, the four-byte frame header, and the
 * client side of RFC 6455 framing (docs/protocol.md, transport and framing). No I/O here. */
#ifndef LOADGEN_WIRE_H
#define LOADGEN_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { HEADER_BYTES = 4, WS_HEADER_MAX_BYTES = 14, CID_BYTES = 16 };

enum code {
    HELLO = 1, WELCOME = 2, PING = 5, PONG = 6, GOAWAY = 7, BYE = 8, ERR = 9,
    SYNCED = 13, WATCH = 14, RESYNC = 16, SEND = 20, SENT = 21, MSG = 100,
    S_START = 114, S_DELTA = 115, S_END = 116
};

enum { CAP_AI_DELTAS = 4, KIND_AI_REPLY = 6, BUSY = 603 };

static const uint8_t PREFACE[8] = {0x8b, 'P', 'W', 'P', '\r', '\n', 1, 0};

static inline uint64_t get_be(const uint8_t *p, int width) {
    uint64_t value = 0;
    for (int i = 0; i < width; i++) value = value << 8 | p[i];
    return value;
}

static inline uint8_t *put_be(uint8_t *p, uint64_t value, int width) {
    for (int i = width - 1; i >= 0; i--, value >>= 8) p[i] = (uint8_t)value;
    return p + width;
}

/* ---- writing MessagePack ---- */

static inline uint8_t *put_uint(uint8_t *p, uint64_t v) {
    if (v < 0x80) { *p = (uint8_t)v; return p + 1; }
    if (v <= 0xff) { *p = 0xcc; return put_be(p + 1, v, 1); }
    if (v <= 0xffff) { *p = 0xcd; return put_be(p + 1, v, 2); }
    if (v <= 0xffffffff) { *p = 0xce; return put_be(p + 1, v, 4); }
    *p = 0xcf;
    return put_be(p + 1, v, 8);
}

static inline uint8_t *put_text(uint8_t *p, const void *text, size_t size) {
    if (size < 32) *p++ = (uint8_t)(0xa0 | size);
    else if (size <= 0xff) { *p++ = 0xd9; p = put_be(p, size, 1); }
    else { *p++ = 0xda; p = put_be(p, size, 2); }
    memcpy(p, text, size);
    return p + size;
}

static inline uint8_t *put_bin(uint8_t *p, const void *data, size_t size) {
    *p++ = 0xc4;
    p = put_be(p, size, 1);
    memcpy(p, data, size);
    return p + size;
}

/* ---- reading MessagePack ---- */

struct reader {
    const uint8_t *p, *end;
    bool bad; /* ran past the end, or met another type than asked for; reads give 0 from then on */
};

static inline const uint8_t *take(struct reader *r, uint64_t size) {
    const uint8_t *at = r->p;
    if (r->bad || (uint64_t)(r->end - r->p) < size) { r->bad = true; return NULL; }
    r->p += size;
    return at;
}

/* Read an integer; negative ones too (`retry` is -1 for "never"). */
static inline int64_t read_int(struct reader *r) {
    const uint8_t *kind = take(r, 1), *at;
    if (!kind) return 0;
    if (*kind < 0x80) return *kind;
    if (*kind >= 0xe0) return (int8_t)*kind;
    if (*kind < 0xcc || *kind > 0xd3) { r->bad = true; return 0; }
    int width = 1 << (*kind & 3);
    if (!(at = take(r, (uint64_t)width))) return 0;
    uint64_t value = get_be(at, width);
    if (*kind <= 0xcf) return (int64_t)value;
    int shift = 64 - 8 * width;
    return (int64_t)(value << shift) >> shift;
}

static inline uint64_t read_array(struct reader *r) {
    const uint8_t *kind = take(r, 1), *at;
    if (!kind) return 0;
    if ((*kind & 0xf0) == 0x90) return *kind & 15;
    int width = *kind == 0xdc ? 2 : *kind == 0xdd ? 4 : 0;
    if (!width) { r->bad = true; return 0; }
    return (at = take(r, (uint64_t)width)) ? get_be(at, width) : 0;
}

static inline const uint8_t *read_text(struct reader *r, uint64_t *size) {
    const uint8_t *kind = take(r, 1), *at;
    *size = 0;
    if (!kind) return NULL;
    if ((*kind & 0xe0) == 0xa0) { *size = *kind & 31; return take(r, *size); }
    int width = *kind == 0xd9 ? 1 : *kind == 0xda ? 2 : *kind == 0xdb ? 4 : 0;
    if (!width) { r->bad = true; return NULL; }
    if (!(at = take(r, (uint64_t)width))) return NULL;
    *size = get_be(at, width);
    return take(r, *size);
}

static inline bool skip_nil(struct reader *r) {
    bool is_nil = !r->bad && r->p < r->end && *r->p == 0xc0;
    if (is_nil) r->p++;
    return is_nil;
}

static inline bool read_bool(struct reader *r) {
    const uint8_t *kind = take(r, 1);
    if (kind && *kind != 0xc2 && *kind != 0xc3) r->bad = true;
    return kind && *kind == 0xc3;
}

/* ---- WebSocket, client side ---- */

/* Write the header of one whole binary message (or a control frame) and mask the payload in place
 * right behind it: the caller has put `size` bytes at p + ws_header_bytes(size). */
static inline size_t ws_header_bytes(size_t size) {
    return size < 126 ? 6 : size <= 0xffff ? 8 : 14;
}

static inline void ws_wrap(uint8_t *p, int opcode, size_t size, uint32_t key) {
    *p++ = (uint8_t)(0x80 | opcode);
    if (size < 126) *p++ = (uint8_t)(0x80 | size);
    else if (size <= 0xffff) { *p++ = 0x80 | 126; p = put_be(p, size, 2); }
    else { *p++ = 0x80 | 127; p = put_be(p, size, 8); }
    memcpy(p, &key, 4);
    p += 4;
    uint64_t wide = (uint64_t)key << 32 | key, word;
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
        memcpy(&word, p + i, 8);
        word ^= wide;
        memcpy(p + i, &word, 8);
    }
    for (; i < size; i++) p[i] ^= ((const uint8_t *)&key)[i & 3];
}

enum { WS_CONTINUATION = 0, WS_TEXT = 1, WS_BINARY = 2, WS_CLOSE = 8, WS_PING = 9, WS_PONG = 10 };

/* Cuts a server's WebSocket byte stream. Data payloads of all messages form one byte stream of frames,
 * because a message holds whole frames: message borders need not be kept. */
struct ws_parser {
    uint64_t left;                     /* payload bytes of the current frame still to come */
    uint8_t head[WS_HEADER_MAX_BYTES]; /* unfinished header */
    uint8_t head_len, opcode;
    uint8_t control[125];              /* payload of the current control frame */
    uint8_t control_len;
    bool bad;
};

/* Take input at *p (up to end); append data payload to out (as large as the input).
 * Returns the opcode of a control frame that is now whole (call again for the rest), else -1. */
static inline int ws_feed(struct ws_parser *ws, const uint8_t **p, const uint8_t *end, uint8_t **out) {
    while (*p < end || (ws->left == 0 && ws->head_len && !ws->bad)) {
        if (ws->left == 0) {
            int need = 2;
            if (ws->head_len >= 2) {
                int size = ws->head[1] & 127;
                need = size == 126 ? 4 : size == 127 ? 10 : 2;
            }
            if (ws->head_len < need) {
                if (*p == end) return -1;
                ws->head[ws->head_len++] = *(*p)++;
                if (ws->head_len < 2 || ws->head_len < need) continue;
                if (ws->head_len == 2 && (ws->head[1] & 127) >= 126) continue;
            }
            int size = ws->head[1] & 127;
            ws->bad |= (ws->head[0] & 0x70) || (ws->head[1] & 0x80);
            ws->left = size == 126 ? get_be(ws->head + 2, 2)
                     : size == 127 ? get_be(ws->head + 2, 8) : (uint64_t)size;
            ws->opcode = ws->head[0] & 15;
            ws->head_len = 0;
            ws->control_len = 0;
            ws->bad |= ws->opcode >= 8 && ws->left > 125;
            if (ws->bad) return -1;
            if (ws->left == 0 && ws->opcode >= 8) return ws->opcode;
            continue;
        }
        uint64_t size = (uint64_t)(end - *p) < ws->left ? (uint64_t)(end - *p) : ws->left;
        if (ws->opcode >= 8) {
            memcpy(ws->control + ws->control_len, *p, size);
            ws->control_len = (uint8_t)(ws->control_len + size);
        } else {
            memcpy(*out, *p, size);
            *out += size;
        }
        *p += size;
        ws->left -= size;
        if (ws->left == 0 && ws->opcode >= 8) return ws->opcode;
    }
    return -1;
}

#endif
