/* The text of AI answers, made of stamps: eight hexadecimal digits and a space, the microsecond at
 * which the provider sent the token (CLOCK_MONOTONIC, lowest 32 bits). No I/O here. */
#ifndef LOADGEN_ANSWERS_H
#define LOADGEN_ANSWERS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { TOKEN_BYTES = 9 };

struct answer { /* one answer under way */
    uint64_t sid, asked_ns, got_bytes;
    uint32_t tokens, stamp;
    int in_token; /* characters of an unfinished token */
    bool open, bad;
};

typedef void token_sink(struct answer *a, uint32_t sent_us);

/* Take text cut anywhere; tell the sink of each token that it completes. */
static inline void take_text(struct answer *a, const uint8_t *text, size_t size, token_sink *sink) {
    a->got_bytes += size;
    for (size_t i = 0; i < size; i++) {
        uint8_t h = text[i];
        if (++a->in_token == TOKEN_BYTES) {
            a->in_token = 0;
            a->bad |= h != ' ';
            a->tokens++;
            sink(a, a->stamp);
            continue;
        }
        uint32_t digit = h >= '0' && h <= '9' ? h - '0' + 0u : h >= 'a' && h <= 'f' ? h - 'a' + 10u : 16;
        a->bad |= digit > 15;
        a->stamp = a->stamp << 4 | (digit & 15);
    }
}

static inline uint64_t age_ns(uint64_t now_ns, uint32_t sent_us) {
    int32_t age_us = (int32_t)((uint32_t)(now_ns / 1000) - sent_us);
    return age_us < 0 ? 0 : (uint64_t)age_us * 1000;
}

/* ---- an HTTP/1.1 response, as far as it takes to find texts in event streams ---- */

enum http_state { HTTP_HEAD, HTTP_SIZED, HTTP_CHUNK_SIZE, HTTP_CHUNK, HTTP_CHUNK_END, HTTP_LAST };

struct http {
    enum http_state state;
    int status, matched;  /* matched: characters of FIELD that stand before this point */
    uint64_t left;
    bool in_text, bad;
};

static const char FIELD[] = "\"content\":\"";

/* Read the head: `size` bytes that end with the empty line. */
static inline void http_begin(struct http *h, const char *head, size_t size) {
    *h = (struct http){.state = HTTP_SIZED};
    h->bad = size < 12 || memcmp(head, "HTTP/1.1 ", 9);
    for (int i = 9; i < 12 && !h->bad; i++) h->status = h->status * 10 + head[i] - '0';
    for (const char *line = head, *next; (next = memchr(line, '\n', (size_t)(head + size - line))); line = next + 1) {
        if (!strncasecmp(line, "transfer-encoding: chunked", 26)) h->state = HTTP_CHUNK_SIZE;
        if (!strncasecmp(line, "content-length: ", 16)) h->left = strtoull(line + 16, NULL, 10);
    }
}

static inline void http_text(struct http *h, struct answer *a, const uint8_t *p, size_t size, token_sink *sink) {
    for (const uint8_t *end = p + size; p < end; p++) {
        if (h->in_text) {
            const uint8_t *quote = memchr(p, '"', (size_t)(end - p));
            take_text(a, p, (size_t)((quote ? quote : end) - p), sink);
            if (!quote) return;
            h->in_text = false;
            p = quote;
        } else if (*p == FIELD[h->matched]) {
            if (!FIELD[++h->matched]) { h->matched = 0; h->in_text = true; }
        } else h->matched = *p == '"';
    }
}

/* Take body bytes; returns true when the response is over (`*used` says how many were its own). */
static inline bool http_feed(struct http *h, struct answer *a, const uint8_t *p, size_t size, size_t *used,
                             token_sink *sink) {
    const uint8_t *at = p, *end = p + size;
    bool over = h->state == HTTP_SIZED && h->left == 0;
    while (at < end && !over && !h->bad) {
        uint64_t n = (uint64_t)(end - at) < h->left ? (uint64_t)(end - at) : h->left;
        switch (h->state) {
        case HTTP_SIZED:
            at += n;
            over = (h->left -= n) == 0;
            break;
        case HTTP_CHUNK_SIZE:
            if (*at == '\n') { h->state = h->left ? HTTP_CHUNK : HTTP_LAST; }
            else if (*at != '\r') {
                int lower = *at | 32, digit = *at <= '9' ? *at - '0' : lower - 'a' + 10;
                h->bad |= digit < 0 || digit > 15 || h->left >> 32;
                h->left = h->left << 4 | (uint64_t)(digit & 15);
            }
            at++;
            break;
        case HTTP_CHUNK:
            http_text(h, a, at, n, sink);
            at += n;
            if ((h->left -= n) == 0) h->state = HTTP_CHUNK_END;
            break;
        case HTTP_CHUNK_END:
            if (*at++ == '\n') h->state = HTTP_CHUNK_SIZE;
            break;
        case HTTP_LAST: /* the empty line behind the last chunk; nobody sends trailers */
            over = *at++ == '\n';
            break;
        case HTTP_HEAD: h->bad = true; break;
        }
    }
    *used = (size_t)(at - p);
    return over;
}

#endif
