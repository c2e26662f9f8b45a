/* A lean load generator for PWP/1 servers: one thread, epoll, nothing but libc.
 *
 * It opens many signed-in connections (native TCP and WebSocket mixed), drives them by one of the
 * modes below, checks what arrives (every message once, in order, without holes) and prints one JSON
 * object on stdout. Progress goes to stderr as one JSON object a line, each with a "phase".
 *
 *   connect  open the connections, hold them, then ping every one
 *   ping     closed loop of ping and pong on every connection
 *   echo     the same bytes as `ping` against a server that returns what it gets, without sign-in
 *   send     conversations of the plan file: senders send, all members must receive
 *   answer   conversations with a persona: each connection asks, follows the answer, asks again
 *   sse      the same questions as streamed chat completions over HTTP
 *   whole    the same as chat completions that come in one piece
 *
 * Answers are stamps of a provider on this machine (answers.h), so their age is known on arrival.
 *
 * Plan file: one conversation a line, "ID SENDERS MEMBER MEMBER ...", members being numbers of
 * connections; the first SENDERS of them send. Connections in no conversation stay idle.
 * Token file: one access token a line, line N for connection N. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "answers.h"
#include "stats.h"
#include "wire.h"

enum {
    IN_BYTES = 256 * 1024, EVENTS = 1024, RING = 4096, MAX_TEXT_BYTES = 16000,
    STAMP_BYTES = 16, MAX_CODE = 1000, PING_FRAME_BYTES = 11, MAX_ATTEMPTS = 50,
    CHECK_PING = 77, TICK_NS = 250000
};
#define SECOND 1000000000ull

/* ---- options ---- */

static struct {
    const char *mode, *host, *tokens, *plan;
    int port, connections, ws, window, parallel, text_bytes, until_last, gap_ms, count;
    const char *model;
    int answer_tokens;
    double connect_rate, send_rate, duration_s, warmup_s, hold_s, settle_s, hb, spread_s;
} opt = {
    .mode = "connect", .model = "", .host = "127.0.0.1", .connections = 1, .window = 1, .parallel = 256,
    .text_bytes = 60, .duration_s = 5, .warmup_s = 1, .settle_s = 0.2, .hb = 60
};

/* ---- state ---- */

enum state { CLOSED, CONNECTING, UPGRADING, SIGNING_IN, READY };

struct slot { /* one message under way */
    uint64_t due_ns, acked_seq;
    uint32_t rid;
    bool busy;
    uint8_t cid[CID_BYTES];
};

struct conn {
    int fd, index, conv; /* conv -1: idle */
    enum state state;
    bool ws, is_sender, wants_write, gave_up;
    int attempts, bye, busy_slots, next_free;
    uint32_t ws_key;
    uint64_t opened_ns, last_sent_ns;
    uint8_t *out, *part;
    size_t out_len, out_cap, out_done, part_len, part_cap, echoed;
    struct ws_parser parser;
    struct slot *slots;
    uint64_t *sent_at; /* ring of send times, ping and echo */
    uint32_t ping_head, ping_tail;
    struct tracker seen;
    struct answer answer;
    struct http http;
};

struct arrival { uint64_t seq; int count; };

struct conv {
    uint64_t id, lowest, highest, done_seq;
    int members, senders, *member;
    struct arrival *ring; /* how many members have each of the latest messages */
};

enum timer_kind { REOPEN, RESEND, NEXT };
struct timer { uint64_t at_ns; enum timer_kind kind; int conn, slot; };

enum phase { OPENING, HOLDING, SETTLING, WARMING, MEASURING, DRAINING, CHECKING, DONE };
static const char *PHASES[] = {"open", "hold", "settle", "warm", "measure", "drain", "check", "done"};

static struct conn *conns;
static struct conv *convs;
static int conv_count, *senders, sender_count, sender_cursor;
static char **tokens;
static struct timer *timers;
static int timer_count, timer_cap;
static enum phase phase = OPENING;
static uint64_t now_ns, phase_ns, start_ns, measured_ns, open_ns;
static int epoll_fd, tick_fd = -1, opened, pending, ready, check_pongs, check_ready;
static uint64_t open_loop_at;
static bool is_echo, is_ping, is_send, is_answer, is_http, is_whole, stopping;
static int open_answers;
static uint64_t open_since_ns, open_sum_ns, open_at_end_ns; /* answers under way, summed over the measured time */
static uint8_t in_bytes[IN_BYTES], plain_bytes[IN_BYTES];
static char filler[MAX_TEXT_BYTES];
static struct rusage usage_before;

static struct { /* whole run */
    uint64_t in_flight, sent_frames, acked, dup_acks, delivered, expected, pongs, resyncs, goaways, others,
        dropped, failed, reconnects, retries, bad_frames, idle_frames, reads, writes, bytes_in, bytes_out;
    uint64_t errors[MAX_CODE], byes[MAX_CODE], closes, answers, broken, by_message;
} total;
static struct { uint64_t acked, delivered, pongs, rounds, tokens, deltas, answers; } measured;
static struct track_counts tracked;
static struct histogram connect_time, ack_time, delivery_time, last_time, ping_time, send_lag, token_age,
    first_token, first_token_age;

static uint64_t clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t random_bits(void) { /* xorshift64* */
    static uint64_t x;
    if (!x) x = (clock_ns() ^ (uint64_t)getpid() << 32) | 1;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    return x * 0x2545f4914f6cdd1dull;
}

static void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    exit(2);
}

static void *grow(void *p, size_t size) {
    if (!(p = realloc(p, size))) die("out of memory");
    return p;
}

/* ---- timers: a binary heap ---- */

static void add_timer(uint64_t at_ns, enum timer_kind kind, int conn, int slot) {
    if (timer_count == timer_cap)
        timers = grow(timers, sizeof *timers * (size_t)(timer_cap = timer_cap ? timer_cap * 2 : 1024));
    int at = timer_count++;
    for (int up; at && timers[up = (at - 1) / 2].at_ns > at_ns; at = up) timers[at] = timers[up];
    timers[at] = (struct timer){at_ns, kind, conn, slot};
}

static struct timer pop_timer(void) {
    struct timer top = timers[0], last = timers[--timer_count];
    int at = 0;
    for (int down; (down = 2 * at + 1) < timer_count; at = down) {
        if (down + 1 < timer_count && timers[down + 1].at_ns < timers[down].at_ns) down++;
        if (timers[down].at_ns >= last.at_ns) break;
        timers[at] = timers[down];
    }
    timers[at] = last;
    return top;
}

/* ---- writing ---- */

static uint8_t *reserve(struct conn *c, size_t size) {
    if (c->out_done && c->out_done == c->out_len) c->out_done = c->out_len = 0;
    if (c->out_len + size > c->out_cap)
        c->out = grow(c->out, c->out_cap = (c->out_len + size) * 2);
    return c->out + c->out_len;
}

static void put_ws(struct conn *c, int opcode, const void *data, size_t size) {
    size_t header = ws_header_bytes(size);
    uint8_t *at = reserve(c, header + size);
    memcpy(at + header, data, size);
    ws_wrap(at, opcode, size, c->ws_key += 0x9e3779b9);
    c->out_len += header + size;
}

/* Queue one frame whose payload stands at frame + HEADER_BYTES; `end` is behind it. */
static void put_frame(struct conn *c, uint8_t *frame, const uint8_t *end) {
    size_t size = (size_t)(end - frame);
    put_be(frame, size - HEADER_BYTES, HEADER_BYTES);
    if (c->ws) put_ws(c, WS_BINARY, frame, size);
    else {
        memcpy(reserve(c, size), frame, size);
        c->out_len += size;
    }
    c->last_sent_ns = now_ns;
    total.sent_frames++;
}

static void lose(struct conn *c, const char *why);

static void flush(struct conn *c) {
    if (c->state < UPGRADING || c->out_done == c->out_len) return;
    ssize_t n = send(c->fd, c->out + c->out_done, c->out_len - c->out_done, MSG_NOSIGNAL);
    total.writes++;
    if (n < 0 && errno != EAGAIN) { lose(c, "write"); return; }
    if (n > 0) {
        c->out_done += (size_t)n;
        total.bytes_out += (uint64_t)n;
    }
    bool wants = c->out_done < c->out_len;
    if (wants != c->wants_write) {
        struct epoll_event ev = {EPOLLIN | (wants ? EPOLLOUT : 0), {.u32 = (uint32_t)c->index}};
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &ev);
        c->wants_write = wants;
    }
}

static void put_hello(struct conn *c) {
    uint8_t frame[8192], device[CID_BYTES], *p = frame + HEADER_BYTES;
    const char *token = tokens[c->index];
    /* The device stays the same when a connection is opened again. */
    memset(device, 0x5a, sizeof device);
    put_be(device + 8, (uint64_t)c->index + 1, 8);
    *p++ = 0x9a;
    p = put_uint(p, HELLO);
    p = put_uint(p, 0);
    p = put_uint(p, 1); /* JWT */
    p = put_text(p, token, strlen(token));
    p = put_bin(p, device, sizeof device);
    p = put_text(p, "loadgen", 7);
    p = put_uint(p, is_answer ? CAP_AI_DELTAS : 0);
    p = put_uint(p, (uint64_t)opt.hb);
    p = put_uint(p, 1 << 20);
    p = put_text(p, "en", 2);
    put_frame(c, frame, p);
}

static void put_ping(struct conn *c, uint64_t n) {
    uint8_t frame[32], *p = frame + HEADER_BYTES;
    *p++ = 0x92;
    p = put_uint(p, PING);
    p = put_uint(p, n);
    put_frame(c, frame, p);
}

/* ---- closed loop of pings ---- */

static void put_round(struct conn *c) {
    uint32_t n = c->ping_head++;
    c->sent_at[n % (uint32_t)opt.window] = now_ns;
    put_ping(c, 0x80000000u | n); /* always five bytes: every frame has PING_FRAME_BYTES */
}

static void end_round(struct conn *c) {
    uint64_t sent = c->sent_at[c->ping_tail++ % (uint32_t)opt.window];
    if (phase == MEASURING) {
        measured.rounds++;
        observe(&ping_time, now_ns - sent);
    }
    if (!stopping) put_round(c);
}

/* ---- messages ---- */

static void make_cid(uint8_t *cid) { /* UUIDv7 */
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    put_be(cid, (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000, 6);
    uint64_t a = random_bits(), b = random_bits();
    put_be(cid + 6, a, 2);
    put_be(cid + 8, b, 8);
    cid[6] = 0x70 | (cid[6] & 15);
    cid[8] = 0x80 | (cid[8] & 63);
}

static void put_send(struct conn *c, struct slot *s) {
    uint8_t frame[MAX_TEXT_BYTES + 128], *p = frame + HEADER_BYTES;
    s->rid = s->rid > 0xffffffffu - 2 * (uint32_t)opt.window
                 ? (uint32_t)(s - c->slots) + 1 : s->rid + (uint32_t)opt.window;
    *p++ = 0x96;
    p = put_uint(p, SEND);
    p = put_uint(p, s->rid);
    p = put_uint(p, convs[c->conv].id);
    p = put_bin(p, s->cid, CID_BYTES);
    p = put_uint(p, 0);
    /* The text opens with the time it was due: whoever receives it knows how long it took. */
    char stamp[STAMP_BYTES + 1];
    snprintf(stamp, sizeof stamp, "%016llx", (unsigned long long)s->due_ns);
    memcpy(filler, stamp, STAMP_BYTES);
    p = put_text(p, filler, (size_t)opt.text_bytes);
    put_frame(c, frame, p);
}

static void begin_send(struct conn *c, struct slot *s, uint64_t due_ns) {
    make_cid(s->cid);
    s->due_ns = due_ns;
    s->acked_seq = 0;
    s->busy = true;
    c->busy_slots++;
    total.in_flight++;
    put_send(c, s);
}

static void end_send(struct conn *c, struct slot *s) {
    s->busy = false;
    c->busy_slots--;
    total.in_flight--;
    if (stopping || opt.send_rate > 0) return;
    if (opt.gap_ms) add_timer(now_ns + (uint64_t)opt.gap_ms * 1000000, NEXT, c->index, (int)(s - c->slots));
    else begin_send(c, s, now_ns);
}

static void note_seq(struct conn *c, struct conv *v, uint64_t seq) {
    if (!v->lowest || seq < v->lowest) v->lowest = seq;
    if (seq > v->highest) v->highest = seq;
    track(&c->seen, seq, &tracked);
}

static void on_sent(struct conn *c, struct reader *r) {
    uint32_t rid = (uint32_t)read_int(r);
    uint64_t id = (uint64_t)read_int(r), seq = (uint64_t)read_int(r);
    read_int(r);
    read_int(r);
    bool dup = read_bool(r);
    struct slot *s = c->slots && rid ? &c->slots[(rid - 1) % (uint32_t)opt.window] : NULL;
    if (r->bad || !s || !s->busy || s->rid != rid || convs[c->conv].id != id) {
        total.bad_frames++;
        return;
    }
    struct conv *v = &convs[c->conv];
    total.acked++;
    total.dup_acks += dup;
    total.expected += (uint64_t)v->members - 1;
    /* After an unknown outcome the push of the first attempt may have arrived here already. */
    if (!dup || seq >= c->seen.next) note_seq(c, v, seq);
    if (phase == MEASURING) {
        measured.acked++;
        observe(&ack_time, now_ns - s->due_ns);
    }
    s->acked_seq = seq;
    if (!opt.until_last || v->done_seq == seq) end_send(c, s);
}

static uint64_t parse_stamp(const uint8_t *text) {
    uint64_t value = 0;
    for (int i = 0; i < STAMP_BYTES; i++) {
        uint8_t h = text[i];
        value = value << 4 | (uint64_t)(h <= '9' ? h - '0' : h - 'a' + 10);
    }
    return value;
}

static void reach_last(struct conv *v, uint64_t seq, uint64_t due_ns) {
    if (phase == MEASURING) observe(&last_time, now_ns - due_ns);
    if (!opt.until_last) return;
    v->done_seq = seq;
    struct conn *sender = &conns[v->member[0]];
    struct slot *s = sender->slots;
    if (s->busy && s->acked_seq == seq) {
        end_send(sender, s);
        flush(sender);
    }
}

static void on_msg(struct conn *c, struct reader *r) {
    uint64_t id = (uint64_t)read_int(r), size;
    read_int(r);
    uint64_t seq = (uint64_t)read_int(r);
    for (int i = 0; i < 3; i++) read_int(r);
    const uint8_t *text = read_text(r, &size);
    if (r->bad || size < STAMP_BYTES || c->conv < 0 || convs[c->conv].id != id) {
        total.bad_frames++;
        return;
    }
    struct conv *v = &convs[c->conv];
    uint64_t due_ns = parse_stamp(text);
    total.delivered++;
    note_seq(c, v, seq);
    if (phase == MEASURING) {
        measured.delivered++;
        observe(&delivery_time, now_ns - due_ns);
    }
    if (v->members > 2) {
        struct arrival *a = &v->ring[seq % RING];
        if (a->seq != seq) *a = (struct arrival){seq, 0};
        if (++a->count == v->members - 1) reach_last(v, seq, due_ns);
    }
}

/* ---- answers ---- */

static const char QUESTION[] = "Tell me what time it is.";

static void count_open(int change) {
    open_sum_ns += (uint64_t)open_answers * (now_ns - open_since_ns);
    open_since_ns = now_ns;
    open_answers += change;
}

static void put_watch(struct conn *c) {
    uint8_t frame[64], *p = frame + HEADER_BYTES;
    *p++ = 0x93;
    p = put_uint(p, WATCH);
    p = put_uint(p, 1);
    *p++ = 0x92;
    *p++ = 0x91;
    p = put_uint(p, convs[c->conv].id);
    *p++ = 0x90;
    put_frame(c, frame, p);
}

static void put_post(struct conn *c) {
    char body[512], text[5120];
    int size = snprintf(body, sizeof body,
                        "{\"model\":\"%s\",\"stream\":%s,\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]}",
                        opt.model, is_whole ? "false" : "true", QUESTION);
    size = snprintf(text, sizeof text,
                    "POST /v1/chat/completions HTTP/1.1\r\nHost: %s:%d\r\nAuthorization: Bearer %s\r\n"
                    "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                    opt.host, opt.port, tokens[c->index], size, body);
    memcpy(reserve(c, (size_t)size), text, (size_t)size);
    c->out_len += (size_t)size;
}

static void put_question(struct conn *c) {
    uint8_t frame[128], cid[CID_BYTES], *p = frame + HEADER_BYTES;
    make_cid(cid);
    *p++ = 0x96;
    p = put_uint(p, SEND);
    p = put_uint(p, 2);
    p = put_uint(p, convs[c->conv].id);
    p = put_bin(p, cid, CID_BYTES);
    p = put_uint(p, 0);
    p = put_text(p, QUESTION, sizeof QUESTION - 1);
    put_frame(c, frame, p);
}

static void ask(struct conn *c) {
    c->answer = (struct answer){.asked_ns = now_ns};
    if (is_http) put_post(c);
    else put_question(c);
}

static struct conn *hearing; /* whose text is being read: the sink below has no other way to know */

static void on_token(struct answer *a, uint32_t sent_us) {
    uint64_t age = age_ns(now_ns, sent_us);
    bool is_first = a->tokens == 1;
    if (is_first) {
        a->open = true;
        count_open(1);
    }
    if (phase != MEASURING) return;
    measured.tokens++;
    observe(&token_age, age);
    if (is_first) {
        observe(&first_token, now_ns - hearing->answer.asked_ns);
        observe(&first_token_age, age);
    }
}

static void ask_again(struct conn *c, int64_t wait_ms) {
    if (c->answer.open) count_open(-1);
    c->answer.open = false;
    if (stopping) return;
    if (wait_ms > 0) add_timer(now_ns + (uint64_t)wait_ms * 1000000, NEXT, c->index, 0);
    else ask(c);
}

static void end_answer(struct conn *c, bool is_whole_answer) {
    struct answer *a = &c->answer;
    total.answers++;
    if (phase == MEASURING) measured.answers++;
    if (!is_whole_answer || a->bad || a->in_token || (opt.answer_tokens && a->tokens != (uint32_t)opt.answer_tokens)) {
        if (!total.broken++)
            fprintf(stderr, "{\"phase\": \"lost\", \"why\": \"an answer of %u tokens\"}\n", a->tokens);
        ask_again(c, 100);
    } else ask_again(c, 0);
}

static void on_delta(struct conn *c, struct reader *r) {
    uint64_t sid = (uint64_t)read_int(r), part = (uint64_t)read_int(r), off = (uint64_t)read_int(r), size;
    const uint8_t *text = read_text(r, &size);
    struct answer *a = &c->answer;
    if (r->bad || part) return;
    if (!a->sid) a->sid = sid;
    if (a->sid != sid || off != a->got_bytes) { a->bad = true; return; }
    if (phase == MEASURING) measured.deltas++;
    hearing = c;
    take_text(a, text, size, on_token);
}

static void on_stream_end(struct conn *c, struct reader *r) {
    uint64_t sid = (uint64_t)read_int(r);
    read_int(r);
    int64_t reason = read_int(r);
    for (int i = 0; i < 3; i++) read_int(r);
    uint64_t size = (uint64_t)read_int(r);
    read_int(r);
    for (uint64_t left = skip_nil(r) ? 0 : read_array(r); left; left--) read_int(r);
    int64_t code = skip_nil(r) ? reason + 900 : read_int(r);
    if (r->bad || (c->answer.sid && c->answer.sid != sid)) return;
    if (reason > 0) total.errors[code > 0 && code < MAX_CODE ? code : 0]++;
    if (code == BUSY && c->answer.tokens == 0) { /* refused, and told to ask later */
        total.retries++;
        ask_again(c, 100);
        return;
    }
    end_answer(c, reason == 0 && size == c->answer.got_bytes);
}

static void on_reply_message(struct conn *c, struct reader *r) { /* it was too slow to get it all */
    for (int i = 0; i < 5; i++) read_int(r);
    if (read_int(r) != KIND_AI_REPLY || r->bad) return;
    total.by_message++;
    end_answer(c, false);
}

static void on_err(struct conn *c, struct reader *r) {
    uint32_t rid = (uint32_t)read_int(r);
    uint64_t code = (uint64_t)read_int(r), size;
    read_text(r, &size);
    int64_t retry_ms = read_int(r);
    total.errors[code < MAX_CODE ? code : 0]++;
    if (is_answer) { ask_again(c, retry_ms > 100 ? retry_ms : 100); return; }
    struct slot *s = c->slots && rid ? &c->slots[(rid - 1) % (uint32_t)opt.window] : NULL;
    if (!s || !s->busy || s->rid != rid) return;
    if (retry_ms >= 0 && !stopping) { /* the same cid again, when the server says so */
        total.retries++;
        add_timer(now_ns + (uint64_t)retry_ms * 1000000, RESEND, c->index, (int)(s - c->slots));
        return;
    }
    s->busy = false; /* this message is given up; go on with the next one soon */
    c->busy_slots--;
    total.in_flight--;
    if (!stopping && opt.send_rate <= 0) add_timer(now_ns + 10000000, NEXT, c->index, (int)(s - c->slots));
}

static void on_pong(struct conn *c, struct reader *r) {
    uint64_t n = (uint64_t)read_int(r);
    total.pongs++;
    if (n >= 0x80000000u) {
        if ((n & 0x7fffffff) != (c->ping_tail & 0x7fffffff)) total.bad_frames++;
        end_round(c);
    } else if (n == CHECK_PING && phase == CHECKING) check_pongs++;
}

/* ---- connections ---- */

static void set_nonblocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

static void open_conn(struct conn *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
    if (inet_pton(AF_INET, opt.host, &to.sin_addr) != 1) die("not an IPv4 address: %s", opt.host);
    if ((c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0) die("socket: %s", strerror(errno));
    set_nonblocking(c->fd);
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->opened_ns = now_ns;
    c->state = CONNECTING;
    c->bye = 0;
    c->wants_write = true;
    c->out_len = c->out_done = c->part_len = 0;
    memset(&c->parser, 0, sizeof c->parser);
    pending++;
    struct epoll_event ev = {EPOLLIN | EPOLLOUT, {.u32 = (uint32_t)c->index}};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &ev);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) lose(c, "connect");
}

static void lose(struct conn *c, const char *why) {
    if (c->state == CLOSED) return;
    bool was_ready = c->state == READY;
    close(c->fd);
    c->state = CLOSED;
    if (phase == DONE) return;
    if (was_ready) {
        ready--;
        total.dropped++;
        total.in_flight -= (uint64_t)c->busy_slots;
        c->busy_slots = 0;
    } else {
        pending--;
        bool told_to = c->bye >= 400 && c->bye < 600;
        if (++c->attempts < (told_to ? MAX_ATTEMPTS : c->bye ? 0 : 3)) {
            total.reconnects++;
            add_timer(now_ns + SECOND / 5 + random_bits() % SECOND, REOPEN, c->index, 0);
            return;
        }
        total.failed++;
    }
    c->gave_up = true;
    if (!c->bye) total.closes++;
    if (total.dropped + total.failed <= 5)
        fprintf(stderr, "{\"phase\": \"lost\", \"connection\": %d, \"why\": \"%s\", \"bye\": %d}\n",
                c->index, why, c->bye);
}

static void put_upgrade(struct conn *c) {
    char text[512];
    int size = snprintf(text, sizeof text,
                        "GET /ws HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                        "Sec-WebSocket-Protocol: pwp1.msgpack\r\n\r\n", opt.host, opt.port);
    memcpy(reserve(c, (size_t)size), text, (size_t)size);
    c->out_len += (size_t)size;
}

static void become_ready(struct conn *c) {
    c->state = READY;
    pending--;
    ready++;
    observe(&connect_time, now_ns - c->opened_ns);
    /* The first heartbeat waits a random fraction, so that they do not come in one clump. */
    c->last_sent_ns = now_ns - random_bits() % (uint64_t)(opt.hb * 0.8 * (double)SECOND);
}

static void on_connected(struct conn *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) { lose(c, strerror(error)); return; }
    c->state = c->ws ? UPGRADING : SIGNING_IN;
    if (is_echo || is_http) become_ready(c);
    else if (c->ws) put_upgrade(c);
    else {
        memcpy(reserve(c, sizeof PREFACE), PREFACE, sizeof PREFACE);
        c->out_len += sizeof PREFACE;
        put_hello(c);
    }
    flush(c);
    if (c->state == CLOSED || !c->wants_write || c->out_done < c->out_len) return;
    struct epoll_event ev = {EPOLLIN, {.u32 = (uint32_t)c->index}};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &ev);
    c->wants_write = false;
}

/* ---- reading ---- */

static void on_frame(struct conn *c, const uint8_t *payload, size_t size) {
    struct reader r = {payload, payload + size, false};
    read_array(&r);
    int64_t code = read_int(&r);
    switch (code) {
    case MSG: if (is_answer) on_reply_message(c, &r); else on_msg(c, &r); break;
    case S_DELTA: on_delta(c, &r); break;
    case S_END: on_stream_end(c, &r); break;
    case SENT: if (!is_answer) on_sent(c, &r); break;
    case PONG: on_pong(c, &r); break;
    case ERR: on_err(c, &r); break;
    case WELCOME:
        if (c->state != SIGNING_IN) break;
        become_ready(c);
        if (is_answer) put_watch(c);
        break;
    case RESYNC: total.resyncs++; break;
    case GOAWAY: total.goaways++; break;
    case BYE:
        c->bye = (int)read_int(&r);
        total.byes[c->bye > 0 && c->bye < MAX_CODE ? c->bye : 0]++;
        break;
    default: total.others++;
    }
    if (c->conv < 0 && c->state == READY && (code == MSG || code == SENT)) total.idle_frames++;
    if (r.bad) total.bad_frames++;
}

/* Handle the whole frames in data; return how many bytes they took. */
static size_t cut_frames(struct conn *c, const uint8_t *data, size_t size) {
    size_t at = 0;
    while (size - at >= HEADER_BYTES && c->state != CLOSED) {
        uint64_t word = get_be(data + at, HEADER_BYTES);
        if (word == 0 || word > 0xffffff) { total.bad_frames++; lose(c, "framing"); return size; }
        if (size - at - HEADER_BYTES < word) break;
        on_frame(c, data + at + HEADER_BYTES, word);
        at += HEADER_BYTES + word;
    }
    return at;
}

static void append_part(struct conn *c, const uint8_t *data, size_t size) {
    if (c->part_len + size > c->part_cap) c->part = grow(c->part, c->part_cap = (c->part_len + size) * 2);
    memcpy(c->part + c->part_len, data, size);
    c->part_len += size;
}

static void feed(struct conn *c, const uint8_t *data, size_t size) {
    if (!c->part_len) {
        size_t used = cut_frames(c, data, size);
        if (used < size && c->state != CLOSED) append_part(c, data + used, size - used);
        return;
    }
    append_part(c, data, size);
    size_t used = cut_frames(c, c->part, c->part_len);
    memmove(c->part, c->part + used, c->part_len - used);
    c->part_len -= used;
}

static void feed_ws(struct conn *c, const uint8_t *p, const uint8_t *end) {
    uint8_t *out = plain_bytes;
    int opcode;
    while ((opcode = ws_feed(&c->parser, &p, end, &out)) >= 0) {
        if (opcode == WS_PING) put_ws(c, WS_PONG, c->parser.control, c->parser.control_len);
        if (opcode == WS_CLOSE && !c->bye && c->parser.control_len >= 2) {
            int status = (int)get_be(c->parser.control, 2);
            c->bye = status >= 4000 ? status - 4000 : 0;
        }
    }
    if (c->parser.bad) { total.bad_frames++; lose(c, "websocket framing"); return; }
    if (out > plain_bytes) feed(c, plain_bytes, (size_t)(out - plain_bytes));
}

static void on_upgrade(struct conn *c, const uint8_t *data, size_t size) {
    append_part(c, data, size);
    uint8_t *end = memmem(c->part, c->part_len, "\r\n\r\n", 4);
    if (!end) return;
    if (c->part_len < 12 || memcmp(c->part + 8, " 101", 4)) { lose(c, "upgrade refused"); return; }
    size_t rest = c->part_len - (size_t)(end + 4 - c->part);
    memmove(in_bytes, end + 4, rest);
    c->part_len = 0;
    c->state = SIGNING_IN;
    put_hello(c);
    if (rest) feed_ws(c, in_bytes, in_bytes + rest);
}

/* Take bytes of HTTP responses; the head of one is gathered in c->part first. */
static void feed_http(struct conn *c, const uint8_t *data, size_t size) {
    while (size && c->state != CLOSED) {
        if (c->http.state == HTTP_HEAD) {
            size_t before = c->part_len;
            append_part(c, data, size);
            uint8_t *end = memmem(c->part, c->part_len, "\r\n\r\n", 4);
            if (!end) return;
            size_t head = (size_t)(end + 4 - c->part);
            http_begin(&c->http, (char *)c->part, head);
            data += head - before;
            size -= head - before;
            c->part_len = 0;
        }
        size_t used;
        hearing = c;
        bool over = http_feed(&c->http, &c->answer, data, size, &used, on_token);
        data += used;
        size -= used;
        if (c->http.bad) { total.bad_frames++; lose(c, "http"); return; }
        if (!over) return;
        int status = c->http.status;
        c->http.state = HTTP_HEAD;
        if (status != 200) {
            total.errors[status > 0 && status < MAX_CODE ? status : 0]++;
            ask_again(c, 100);
        } else if (is_whole) {
            if (phase == MEASURING) {
                measured.rounds++;
                observe(&ping_time, now_ns - c->answer.asked_ns);
            }
            ask_again(c, 0);
        } else end_answer(c, true);
    }
}

static void on_readable(struct conn *c) {
    ssize_t n = recv(c->fd, in_bytes, sizeof in_bytes, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { lose(c, n ? strerror(errno) : "closed"); return; }
    now_ns = clock_ns();
    total.reads++;
    total.bytes_in += (uint64_t)n;
    if (is_echo) {
        for (c->echoed += (size_t)n; c->echoed >= PING_FRAME_BYTES; c->echoed -= PING_FRAME_BYTES)
            end_round(c);
    } else if (is_http) feed_http(c, in_bytes, (size_t)n);
    else if (c->state == UPGRADING) on_upgrade(c, in_bytes, (size_t)n);
    else if (c->ws) feed_ws(c, in_bytes, in_bytes + n);
    else feed(c, in_bytes, (size_t)n);
    if (c->state != CLOSED) flush(c);
}

static void on_event(const struct epoll_event *ev) {
    struct conn *c = &conns[ev->data.u32];
    if (c->state == CLOSED) return;
    if (c->state == CONNECTING) {
        if (ev->events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) on_connected(c);
        return;
    }
    if (ev->events & EPOLLOUT) flush(c);
    if (c->state != CLOSED && ev->events & (EPOLLIN | EPOLLERR | EPOLLHUP)) on_readable(c);
}

/* ---- driving ---- */

static void on_timer(const struct timer *t) {
    struct conn *c = &conns[t->conn];
    if (t->kind == REOPEN) { if (phase == OPENING) open_conn(c); return; }
    if (c->state != READY) return;
    if (is_answer || is_http) {
        if (!stopping) ask(c);
        flush(c);
        return;
    }
    struct slot *s = &c->slots[t->slot];
    if (t->kind == RESEND && s->busy) put_send(c, s);
    if (t->kind == NEXT && !s->busy && !stopping) begin_send(c, s, now_ns);
    flush(c);
}

static struct slot *free_slot(struct conn *c) {
    for (int i = 0; i < opt.window; i++) {
        struct slot *s = &c->slots[c->next_free++ % opt.window];
        if (!s->busy) return s;
    }
    return NULL;
}

/* Open loop: send what is due by the clock. What finds every sender full goes out late, and its
 * latency counts from when it was due. */
static void send_due(void) {
    uint64_t step_ns = (uint64_t)(1e9 / opt.send_rate);
    for (; open_loop_at <= now_ns; open_loop_at += step_ns) {
        struct conn *c = NULL;
        for (int i = 0; i < sender_count && !c; i++) {
            struct conn *next = &conns[senders[sender_cursor++ % sender_count]];
            if (next->state == READY && next->busy_slots < opt.window) c = next;
        }
        if (!c) return;
        if (phase == MEASURING) observe(&send_lag, now_ns - open_loop_at);
        begin_send(c, free_slot(c), open_loop_at);
        flush(c);
    }
}

static void start_traffic(void) {
    if (is_answer || is_http) { /* spread, so that tokens of different answers do not coincide */
        for (int i = 0; i < opt.connections; i++)
            add_timer(now_ns + (uint64_t)(opt.spread_s * 1e9 * i / opt.connections), NEXT, i, 0);
        return;
    }
    if (is_send && opt.send_rate > 0) { open_loop_at = now_ns; return; }
    for (int i = 0; i < opt.connections; i++) {
        struct conn *c = &conns[i];
        if (c->state != READY) continue;
        for (int k = 0; k < opt.window; k++) {
            if (is_send && c->is_sender) begin_send(c, &c->slots[k], now_ns);
            if (is_ping || is_echo) put_round(c);
        }
        flush(c);
    }
}

static void check_all(void) {
    check_ready = ready;
    for (int i = 0; i < opt.connections; i++)
        if (conns[i].state == READY) {
            put_ping(&conns[i], CHECK_PING);
            flush(&conns[i]);
        }
}

static void beat(void) {
    if (is_echo || is_http) return;
    uint64_t limit_ns = (uint64_t)(opt.hb * 0.8 * (double)SECOND);
    for (int i = 0; i < opt.connections; i++)
        if (conns[i].state == READY && now_ns - conns[i].last_sent_ns > limit_ns) {
            put_ping(&conns[i], 0);
            flush(&conns[i]);
        }
}

static void tell(void) {
    fprintf(stderr, "{\"phase\": \"%s\", \"ready\": %d, \"of\": %d, \"elapsed_s\": %.2f, \"done\": %llu}\n",
            PHASES[phase], ready, opt.connections, (double)(now_ns - phase_ns) / 1e9,
            (unsigned long long)(is_send ? total.acked : measured.tokens + measured.rounds));
}

static void enter(enum phase next) {
    if (phase == OPENING) open_ns = now_ns - start_ns;
    if (phase == MEASURING) {
        struct rusage after;
        getrusage(RUSAGE_SELF, &after);
        measured_ns = now_ns - phase_ns;
        usage_before.ru_utime.tv_sec = after.ru_utime.tv_sec - usage_before.ru_utime.tv_sec;
        usage_before.ru_utime.tv_usec = after.ru_utime.tv_usec - usage_before.ru_utime.tv_usec;
        usage_before.ru_stime.tv_sec = after.ru_stime.tv_sec - usage_before.ru_stime.tv_sec;
        usage_before.ru_stime.tv_usec = after.ru_stime.tv_usec - usage_before.ru_stime.tv_usec;
    }
    if (next == MEASURING || phase == MEASURING) {
        count_open(0);
        if (next == MEASURING) open_sum_ns = 0;
    }
    if (next == DRAINING) open_at_end_ns = open_sum_ns;
    phase = next;
    phase_ns = now_ns;
    if (next == MEASURING) getrusage(RUSAGE_SELF, &usage_before);
    stopping = next >= DRAINING;
    tell();
    if (next == WARMING) start_traffic();
    if (next == CHECKING) check_all();
}

static void open_more(void) {
    double due = opt.connect_rate > 0 ? (double)(now_ns - start_ns) / 1e9 * opt.connect_rate : 1e18;
    while (opened < opt.connections && pending < opt.parallel && (double)opened < due)
        open_conn(&conns[opened++]);
}

static bool all_decided(void) {
    return opened == opt.connections && (uint64_t)ready + total.failed + total.dropped == (uint64_t)opened;
}

static void advance(void) {
    double in_phase_s = (double)(now_ns - phase_ns) / 1e9;
    bool has_traffic = is_send || is_ping || is_echo || is_answer || is_http;
    switch (phase) {
    case OPENING:
        open_more();
        if (all_decided()) enter(opt.hold_s > 0 || !has_traffic ? HOLDING : SETTLING);
        break;
    case HOLDING: if (in_phase_s >= opt.hold_s) enter(has_traffic ? SETTLING : CHECKING); break;
    case SETTLING: if (in_phase_s >= opt.settle_s) enter(WARMING); break;
    case WARMING: if (in_phase_s >= opt.warmup_s) enter(MEASURING); break;
    case MEASURING:
        if (in_phase_s >= opt.duration_s || (opt.count && last_time.total >= (uint64_t)opt.count))
            enter(DRAINING);
        break;
    case DRAINING:
        if ((total.in_flight == 0 && total.delivered >= total.expected && in_phase_s > 0.3) || in_phase_s > 15)
            enter(is_echo || is_http ? DONE : CHECKING);
        break;
    case CHECKING: if (check_pongs >= check_ready || in_phase_s > 15) enter(DONE); break;
    case DONE: break;
    }
    if (is_send && opt.send_rate > 0 && (phase == WARMING || phase == MEASURING)) send_due();
}

static int wait_ms(void) {
    if (phase == OPENING && opened < opt.connections) return 1;
    if (timer_count) {
        int64_t left = (int64_t)(timers[0].at_ns - now_ns) / 1000000;
        return left < 0 ? 0 : left > 10 ? 10 : (int)left + (left == 0);
    }
    return 10;
}

static void run(void) {
    struct epoll_event events[EVENTS];
    uint64_t next_tell = 0, next_beat = 0;
    start_ns = phase_ns = now_ns = clock_ns();
    while (phase != DONE) {
        int n = epoll_wait(epoll_fd, events, EVENTS, wait_ms());
        now_ns = clock_ns();
        for (int i = 0; i < n; i++) {
            if (events[i].data.u32 == UINT32_MAX) {
                uint64_t ticks;
                if (read(tick_fd, &ticks, sizeof ticks) < 0) continue;
            } else on_event(&events[i]);
        }
        while (timer_count && timers[0].at_ns <= now_ns) {
            struct timer t = pop_timer();
            on_timer(&t);
        }
        advance();
        if (now_ns >= next_tell) { tell(); next_tell = now_ns + SECOND / 4; }
        if (now_ns >= next_beat) { beat(); next_beat = now_ns + SECOND; }
    }
}

/* ---- input ---- */

static char **read_lines(const char *path, int *count) {
    FILE *f = path ? fopen(path, "r") : NULL;
    if (!f) die("cannot read %s", path ? path : "(no file given)");
    char **lines = NULL, *line = NULL;
    size_t cap = 0;
    ssize_t size;
    for (*count = 0; (size = getline(&line, &cap, f)) > 0;) {
        if (line[size - 1] == '\n') line[size - 1] = 0;
        if (*count % 1024 == 0) lines = grow(lines, sizeof *lines * (size_t)(*count + 1024));
        lines[(*count)++] = strdup(line);
    }
    free(line);
    fclose(f);
    return lines;
}

static void join_conv(struct conv *v, int at, int index) {
    if (index < 0 || index >= opt.connections) die("plan: no connection %d", index);
    struct conn *c = &conns[index];
    if (c->conv >= 0) die("plan: connection %d is in two conversations", index);
    c->conv = (int)(v - convs);
    v->member[at] = index;
    if (at >= v->senders) return;
    c->is_sender = true;
    c->slots = calloc((size_t)opt.window, sizeof *c->slots);
    /* rid modulo window names the slot */
    for (int k = 0; k < opt.window; k++) c->slots[k].rid = (uint32_t)k + 1;
    senders = grow(senders, sizeof *senders * (size_t)(sender_count + 1));
    senders[sender_count++] = index;
}

static void read_plan(void) {
    char **lines = read_lines(opt.plan, &conv_count);
    convs = calloc((size_t)conv_count + 1, sizeof *convs);
    for (int i = 0; i < conv_count; i++) {
        struct conv *v = &convs[i];
        char *at = lines[i];
        v->id = strtoull(at, &at, 10);
        v->senders = (int)strtol(at, &at, 10);
        for (char *end; strtol(at, &end, 10), end != at; at = end, v->members++) {
            v->member = grow(v->member, sizeof *v->member * (size_t)(v->members + 1));
            join_conv(v, v->members, (int)strtol(at, NULL, 10));
        }
        if (v->members < (is_answer ? 1 : 2) || v->senders < 1) die("plan: conversation %d needs a sender and a receiver", i);
        if (v->members > 2) v->ring = calloc(RING, sizeof *v->ring);
        free(lines[i]);
    }
    free(lines);
}

static void prepare(void) {
    is_echo = !strcmp(opt.mode, "echo");
    is_ping = !strcmp(opt.mode, "ping");
    is_send = !strcmp(opt.mode, "send");
    is_answer = !strcmp(opt.mode, "answer");
    is_whole = !strcmp(opt.mode, "whole");
    is_http = is_whole || !strcmp(opt.mode, "sse");
    if (!is_echo && !is_ping && !is_send && !is_answer && !is_http && strcmp(opt.mode, "connect")) die("unknown mode %s", opt.mode);
    if (opt.text_bytes < STAMP_BYTES || opt.text_bytes > MAX_TEXT_BYTES) die("text: 16 to 16000 bytes");
    if (opt.window < 1 || (opt.until_last && opt.window != 1)) die("window: 1 or more; 1 with --until-last");
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_max < (rlim_t)opt.connections + 64) die("only %lu open files allowed", files.rlim_max);
    memset(filler, '.', sizeof filler);
    conns = calloc((size_t)opt.connections, sizeof *conns);
    for (int64_t i = 0; i < opt.connections; i++) {
        struct conn *c = &conns[i];
        c->index = (int)i;
        c->conv = -1;
        c->ws = (i + 1) * opt.ws / opt.connections != i * opt.ws / opt.connections; /* spread evenly */
        c->ws_key = (uint32_t)random_bits();
        if (is_ping || is_echo) c->sent_at = calloc((size_t)opt.window, sizeof *c->sent_at);
    }
    int count = 0;
    if (!is_echo) tokens = read_lines(opt.tokens, &count);
    if (!is_echo && count < opt.connections) die("%d tokens for %d connections", count, opt.connections);
    for (int i = 0; i < count; i++) if (strlen(tokens[i]) > 4096) die("token %d is too long", i);
    if (is_send || is_answer) read_plan();
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (opt.send_rate > 0) { /* epoll waits in whole milliseconds: too coarse for an open loop */
        tick_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        struct itimerspec every = {{0, TICK_NS}, {0, TICK_NS}};
        timerfd_settime(tick_fd, 0, &every, NULL);
        struct epoll_event ev = {EPOLLIN, {.u32 = UINT32_MAX}};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, tick_fd, &ev);
    }
}

/* ---- output ---- */

static void print_codes(const char *name, const uint64_t *counts) {
    const char *comma = "";
    printf(", \"%s\": {", name);
    for (int i = 0; i < MAX_CODE; i++)
        if (counts[i]) {
            printf("%s\"%d\": %llu", comma, i, (unsigned long long)counts[i]);
            comma = ", ";
        }
    putchar('}');
}

static void print_result(void) {
    double seconds = measured_ns ? (double)measured_ns / 1e9 : 1;
    double cpu_s = (double)(usage_before.ru_utime.tv_sec + usage_before.ru_stime.tv_sec)
                 + (double)(usage_before.ru_utime.tv_usec + usage_before.ru_stime.tv_usec) / 1e6;
    for (int i = 0; i < opt.connections; i++)
        if (conns[i].conv >= 0 && !conns[i].gave_up)
            close_tracker(&conns[i].seen, convs[conns[i].conv].lowest, convs[conns[i].conv].highest, &tracked);
#define N(name, value) printf(", \"%s\": %llu", name, (unsigned long long)(value))
    printf("{\"mode\": \"%s\", \"connections\": %d, \"websocket\": %d", opt.mode, opt.connections, opt.ws);
    N("connected", connect_time.total); N("ready_at_end", ready); N("failed", total.failed);
    N("dropped", total.dropped); N("reconnects", total.reconnects); N("closed_without_bye", total.closes);
    printf(", \"open_s\": %.3f, \"connects_per_s\": %.0f", (double)open_ns / 1e9,
           (double)connect_time.total / ((double)open_ns / 1e9));
    print_histogram(stdout, "connect", &connect_time);
    printf(", \"seconds\": %.3f, \"generator_cpu\": %.3f", seconds, measured_ns ? cpu_s / seconds : 0);
    printf(", \"acked_per_s\": %.0f, \"delivered_per_s\": %.0f, \"rounds_per_s\": %.0f",
           (double)measured.acked / seconds, (double)measured.delivered / seconds,
           (double)measured.rounds / seconds);
    N("check_sent", check_ready); N("check_pongs", check_pongs);
    N("acked", total.acked); N("dup_acks", total.dup_acks); N("delivered", total.delivered);
    N("expected", total.expected); N("unanswered", total.in_flight); N("retries", total.retries);
    N("dups", tracked.dups); N("holes", tracked.holes); N("late", tracked.late);
    N("resyncs", total.resyncs); N("goaways", total.goaways); N("bad_frames", total.bad_frames);
    N("other_frames", total.others); N("reads", total.reads); N("writes", total.writes);
    N("bytes_in", total.bytes_in); N("bytes_out", total.bytes_out);
    print_codes("errors", total.errors);
    print_codes("byes", total.byes);
    print_histogram(stdout, "ack", &ack_time);
    print_histogram(stdout, "delivery", &delivery_time);
    print_histogram(stdout, "last_member", &last_time);
    print_histogram(stdout, "round_trip", &ping_time);
    print_histogram(stdout, "send_lag", &send_lag);
    printf(", \"tokens_per_s\": %.0f, \"deltas_per_s\": %.0f, \"answers_per_s\": %.1f, \"open_answers\": %.1f",
           (double)measured.tokens / seconds, (double)measured.deltas / seconds, (double)measured.answers / seconds,
           (double)open_at_end_ns / 1e9 / seconds);
    N("tokens", measured.tokens); N("answers", total.answers); N("broken_answers", total.broken);
    N("answers_by_message", total.by_message);
    print_histogram(stdout, "token_age", &token_age);
    print_histogram(stdout, "first_token", &first_token);
    print_histogram(stdout, "first_token_age", &first_token_age);
    puts("}");
}

int main(int argc, char **argv) {
    static const struct option names[] = {
        {"mode", 1, 0, 'm'}, {"host", 1, 0, 'H'}, {"port", 1, 0, 'p'}, {"tokens", 1, 0, 't'},
        {"plan", 1, 0, 'P'}, {"connections", 1, 0, 'c'}, {"ws", 1, 0, 'w'}, {"window", 1, 0, 'd'},
        {"parallel", 1, 0, 'a'}, {"text-bytes", 1, 0, 'b'}, {"until-last", 0, 0, 'l'},
        {"gap-ms", 1, 0, 'g'}, {"count", 1, 0, 'n'}, {"connect-rate", 1, 0, 'r'},
        {"send-rate", 1, 0, 'R'}, {"duration", 1, 0, 'T'}, {"warmup", 1, 0, 'W'},
        {"hold", 1, 0, 'o'}, {"settle", 1, 0, 's'}, {"heartbeat", 1, 0, 'B'}, {"model", 1, 0, 'M'},
        {"answer-tokens", 1, 0, 'A'}, {"spread", 1, 0, 'S'}, {0, 0, 0, 0}};
    for (int k; (k = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (k) {
        case 'm': opt.mode = optarg; break;
        case 'H': opt.host = optarg; break;
        case 'p': opt.port = atoi(optarg); break;
        case 't': opt.tokens = optarg; break;
        case 'P': opt.plan = optarg; break;
        case 'c': opt.connections = atoi(optarg); break;
        case 'w': opt.ws = atoi(optarg); break;
        case 'd': opt.window = atoi(optarg); break;
        case 'a': opt.parallel = atoi(optarg); break;
        case 'b': opt.text_bytes = atoi(optarg); break;
        case 'l': opt.until_last = 1; break;
        case 'g': opt.gap_ms = atoi(optarg); break;
        case 'n': opt.count = atoi(optarg); break;
        case 'r': opt.connect_rate = atof(optarg); break;
        case 'R': opt.send_rate = atof(optarg); break;
        case 'T': opt.duration_s = atof(optarg); break;
        case 'W': opt.warmup_s = atof(optarg); break;
        case 'o': opt.hold_s = atof(optarg); break;
        case 's': opt.settle_s = atof(optarg); break;
        case 'B': opt.hb = atof(optarg); break;
        case 'M': opt.model = optarg; break;
        case 'A': opt.answer_tokens = atoi(optarg); break;
        case 'S': opt.spread_s = atof(optarg); break;
        default: return 2;
    }
    prepare();
    run();
    print_result();
    return 0;
}
