/* What is counted: latencies, and whether each connection saw every message once. */
#ifndef LOADGEN_STATS_H
#define LOADGEN_STATS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* ---- latency histogram: 1/64 relative error at most, from 1 us to hours ---- */

enum { SUB_BITS = 7, SUB = 1 << SUB_BITS, BUCKETS = (40 - SUB_BITS) * SUB };

struct histogram {
    uint64_t counts[BUCKETS], total, sum_us, max_us;
};

static inline int bucket_of(uint64_t us) {
    if (us < SUB) return (int)us;
    int shift = 63 - __builtin_clzll(us) - SUB_BITS + 1;
    int at = shift * (SUB / 2) + (int)(us >> shift);
    return at < BUCKETS ? at : BUCKETS - 1;
}

static inline uint64_t bucket_top_us(int at) {
    if (at < SUB) return (uint64_t)at;
    int shift = at / (SUB / 2) - 1;
    return ((uint64_t)(at - shift * (SUB / 2)) + 1) << shift;
}

static inline void observe(struct histogram *h, uint64_t ns) {
    uint64_t us = ns / 1000;
    h->counts[bucket_of(us)]++;
    h->total++;
    h->sum_us += us;
    if (us > h->max_us) h->max_us = us;
}

static inline uint64_t quantile_us(const struct histogram *h, double q) {
    uint64_t want = (uint64_t)(q * (double)h->total), seen = 0;
    if (want < 1) want = 1;
    for (int i = 0; i < BUCKETS; i++)
        if ((seen += h->counts[i]) >= want) {
            uint64_t top = bucket_top_us(i);
            return top < h->max_us ? top : h->max_us;
        }
    return h->max_us;
}

static inline void print_histogram(FILE *out, const char *name, const struct histogram *h) {
    fprintf(out, ", \"%s\": {\"count\": %llu", name, (unsigned long long)h->total);
    if (h->total)
        fprintf(out,
                ", \"mean_ms\": %.3f, \"p50_ms\": %.3f, \"p90_ms\": %.3f, \"p95_ms\": %.3f,"
                " \"p99_ms\": %.3f, \"p999_ms\": %.3f, \"max_ms\": %.3f",
                (double)h->sum_us / (double)h->total / 1e3, (double)quantile_us(h, .5) / 1e3,
                (double)quantile_us(h, .9) / 1e3, (double)quantile_us(h, .95) / 1e3,
                (double)quantile_us(h, .99) / 1e3, (double)quantile_us(h, .999) / 1e3, (double)h->max_us / 1e3);
    fputc('}', out);
}

/* ---- one connection's view of one conversation ---- */

struct tracker {
    uint64_t first, next; /* all of first..next-1 were seen; next is 0 before the first item */
    uint64_t ahead;       /* bit i: next + 1 + i was seen */
};

struct track_counts {
    uint64_t dups, late, holes;
};

/* Note that seq was seen. Overtaking within 64 is counted as late; farther is a hole. */
static inline void track(struct tracker *t, uint64_t seq, struct track_counts *counts) {
    if (t->next == 0) {
        t->first = seq;
        t->next = seq + 1;
    } else if (seq == t->next) {
        t->next++;
        while (t->ahead & 1) {
            t->next++;
            t->ahead >>= 1;
        }
        t->ahead >>= 1;
    } else if (seq < t->next) {
        if (seq + 1 == t->first) {
            t->first = seq;
            counts->late++;
        } else counts->dups++;
    } else if (seq - t->next - 1 < 64) {
        uint64_t bit = 1ull << (seq - t->next - 1);
        counts->dups += (t->ahead & bit) != 0;
        counts->late += (t->ahead & bit) == 0;
        t->ahead |= bit;
    } else {
        counts->holes += seq - t->next - (uint64_t)__builtin_popcountll(t->ahead);
        t->next = seq + 1;
        t->ahead = 0;
    }
}

/* Count what of lowest..highest was never seen. */
static inline void close_tracker(const struct tracker *t, uint64_t lowest, uint64_t highest,
                                 struct track_counts *counts) {
    if (highest == 0) return;
    if (t->next == 0) {
        counts->holes += highest - lowest + 1;
        return;
    }
    counts->holes += t->first - lowest;
    if (highest >= t->next)
        counts->holes += highest - t->next + 1 - (uint64_t)__builtin_popcountll(t->ahead);
}

#endif
