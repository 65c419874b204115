/* What the load generator, the sink and the yardstick share: a small DICOM wire vocabulary and a fast content hash.
 *
 * The data set of a benchmark object is a fixed header of HEAD bytes (SOP class, UIDs, a few attributes, a private
 * filler) followed by pixels that are the same for every object of an association, so that the generator hashes the
 * pixels once. The sink hashes every byte that it got. */
#ifndef WIRE_H
#define WIRE_H
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-variable"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <unistd.h>
#include <errno.h>
#include <pthread.h>
#include <time.h>
#include <stdatomic.h>

#define HEAD 1024
#define UID_LEN 40

static inline double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline void put32be(uint8_t *p, uint32_t v) { p[0] = v >> 24; p[1] = v >> 16; p[2] = v >> 8; p[3] = v; }
static inline uint32_t get32be(const uint8_t *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }

/* Eight independent multiply-add lanes: position-sensitive, and fast enough (over 10 GB/s) not to be the bottleneck. */
static uint64_t content_hash(const uint8_t *data, size_t size) {
    uint32_t lane[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    size_t i = 0;
    for (; i + 32 <= size; i += 32) {
        uint32_t w[8];
        memcpy(w, data + i, 32);
        for (int k = 0; k < 8; k++) lane[k] = lane[k] * 2654435761u + w[k];
    }
    uint64_t h = 1469598103934665603ull ^ size;
    for (; i < size; i++) h = (h ^ data[i]) * 1099511628211ull;
    for (int k = 0; k < 8; k++) h = (h ^ lane[k]) * 1099511628211ull;
    return h;
}

static inline uint64_t object_hash(uint64_t head, uint64_t rest) { return head * 31 + rest; }

static int send_all(int fd, const uint8_t *p, size_t n) {
    while (n) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k < 0) { if (errno == EINTR) continue; return -1; }
        p += k; n -= (size_t)k;
    }
    return 0;
}

static int recv_all(int fd, uint8_t *p, size_t n) {
    while (n) {
        ssize_t k = recv(fd, p, n, MSG_WAITALL);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return -1;
        p += k; n -= (size_t)k;
    }
    return 0;
}

static void set_options(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
}

static size_t put_item(uint8_t *p, uint8_t type, const void *value, size_t n) {
    p[0] = type; p[1] = 0; p[2] = n >> 8; p[3] = n;
    memcpy(p + 4, value, n);
    return n + 4;
}

static const char *SOP_CLASS = "1.2.840.10008.5.1.4.1.1.2";
static const char *EXPLICIT_LE = "1.2.840.10008.1.2.1";

/* An association for CT images in Explicit VR Little Endian, context 1; -1 when it cannot be had. */
static int associate_to(const char *host, int port, const char *called, const char *calling, uint32_t *peer_max) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, host, &a.sin_addr);
    if (connect(fd, (struct sockaddr *)&a, sizeof a)) { close(fd); return -1; }
    set_options(fd);
    uint8_t pdu[1024] = {0x01}; uint8_t *p = pdu + 6;
    p[1] = 1; p += 4;
    memset(p, ' ', 32); memcpy(p, called, strlen(called)); memcpy(p + 16, calling, strlen(calling)); p += 32;
    p += 32;
    p += put_item(p, 0x10, "1.2.840.10008.3.1.1.1", 21);
    uint8_t ctx[256] = {1, 0, 0, 0}; size_t n = 4;
    n += put_item(ctx + n, 0x30, SOP_CLASS, strlen(SOP_CLASS));
    n += put_item(ctx + n, 0x40, EXPLICIT_LE, strlen(EXPLICIT_LE));
    p += put_item(p, 0x20, ctx, n);
    uint8_t user[128]; size_t m = 0; uint8_t max[4];
    put32be(max, 131072);
    m += put_item(user + m, 0x51, max, 4);
    m += put_item(user + m, 0x52, "2.25.7", 6);
    p += put_item(p, 0x50, user, m);
    put32be(pdu + 2, (uint32_t)(p - pdu - 6));
    uint8_t head[6], body[65536];
    if (send_all(fd, pdu, (size_t)(p - pdu)) || recv_all(fd, head, 6)) { close(fd); return -1; }
    uint32_t length = get32be(head + 2);
    if (head[0] != 2 || length > sizeof body || recv_all(fd, body, length)) { close(fd); return -1; }
    for (uint32_t i = 68; i + 4 <= length;) {
        uint32_t k = body[i + 2] << 8 | body[i + 3];
        if (body[i] == 0x50)
            for (uint32_t j = i + 4; j + 8 <= i + 4 + k;) {
                uint32_t q = body[j + 2] << 8 | body[j + 3];
                if (body[j] == 0x51) { if (peer_max) *peer_max = get32be(body + j + 4); }
                j += 4 + q;
            }
        i += 4 + k;
    }
    return fd;
}

/* The answer to an A-ASSOCIATE-RQ: every context, with its first transfer syntax. */
static size_t accept_pdu(const uint8_t *rq, uint32_t n, uint8_t *out) {
    uint8_t *p = out + 6;
    memcpy(p, rq, 68); p += 68;
    p += put_item(p, 0x10, "1.2.840.10008.3.1.1.1", 21);
    uint8_t user[128]; size_t m = 0; uint8_t max[4]; put32be(max, 131072);
    m += put_item(user + m, 0x51, max, 4);
    m += put_item(user + m, 0x52, "2.25.8", 6);
    for (uint32_t i = 68; i + 4 <= n;) {
        uint32_t k = rq[i + 2] << 8 | rq[i + 3];
        if (i + 4 + k > n) break;
        if (rq[i] == 0x20) {
            uint8_t ctx[128] = {rq[i + 4], 0, 0, 0};
            for (uint32_t j = i + 8; j + 4 <= i + 4 + k;) {
                uint32_t q = rq[j + 2] << 8 | rq[j + 3];
                if (rq[j] == 0x40 && q < 100) { size_t c = 4 + put_item(ctx + 4, 0x40, rq + j + 4, q); p += put_item(p, 0x21, ctx, c); break; }
                j += 4 + q;
            }
        } else if (rq[i] == 0x50)
            for (uint32_t j = i + 4; j + 4 <= i + 4 + k;) {
                uint32_t q = rq[j + 2] << 8 | rq[j + 3];
                if (rq[j] == 0x53 && q == 4) m += put_item(user + m, 0x53, rq + j + 4, 4);
                j += 4 + q;
            }
        i += 4 + k;
    }
    p += put_item(p, 0x50, user, m);
    out[0] = 2; out[1] = 0; put32be(out + 2, (uint32_t)(p - out - 6));
    return (size_t)(p - out);
}

/* A response 0x0000 to the request with this command set. */
static size_t answer_pdu(const uint8_t *command, size_t c, uint8_t context, uint8_t *out) {
    uint8_t cls[64], uid[64]; uint32_t cls_n = 0, uid_n = 0; uint16_t id = 0, field = 1;
    for (size_t j = 0; j + 8 <= c;) {
        uint32_t q; memcpy(&q, command + j + 4, 4);
        uint16_t e = command[j + 2] | command[j + 3] << 8;
        if (j + 8 + q > c) break;
        if (e == 0x0002 && q <= 64) { memcpy(cls, command + j + 8, q); cls_n = q; }
        if (e == 0x0100) memcpy(&field, command + j + 8, 2);
        if (e == 0x0110) memcpy(&id, command + j + 8, 2);
        if (e == 0x1000 && q <= 64) { memcpy(uid, command + j + 8, q); uid_n = q; }
        j += 8 + q;
    }
    uint8_t *p = out + 12 + 12;
#define RSP(e, v, n) do { uint32_t k_ = (n); p[0] = p[1] = 0; p[2] = (e) & 255; p[3] = (e) >> 8; memcpy(p + 4, &k_, 4); memcpy(p + 8, v, k_); p += 8 + k_; } while (0)
    uint16_t rsp = field | 0x8000, none = 0x0101, ok = 0;
    if (cls_n) RSP(0x0002, cls, cls_n);
    RSP(0x0100, &rsp, 2); RSP(0x0120, &id, 2); RSP(0x0800, &none, 2); RSP(0x0900, &ok, 2);
    if (uid_n) RSP(0x1000, uid, uid_n);
    uint32_t four = 4, len = (uint32_t)(p - out - 24);
    memset(out + 12, 0, 4); memcpy(out + 16, &four, 4); memcpy(out + 20, &len, 4);
    uint32_t total = (uint32_t)(p - out - 12);
    out[0] = 4; out[1] = 0; put32be(out + 2, total + 6); put32be(out + 6, total + 2); out[10] = context; out[11] = 3;
    return (size_t)(p - out);
}

/* A socket on loopback, port 0: any; says which on standard output. -1 and errno when it cannot be had. */
static int listening(uint16_t port) {
    int s = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(s, (struct sockaddr *)&a, sizeof a) || listen(s, 256)) return -1;
    socklen_t n = sizeof a; getsockname(s, (struct sockaddr *)&a, &n);
    printf("ready %d\n", ntohs(a.sin_port)); fflush(stdout);
    return s;
}
#endif
