/* What the machine allows: a durable store-and-forward that knows nothing of what it carries.
 *
 *   limit PORT FILE BYTES APPEND DESTINATION_PORT ...
 *
 * Receives messages, gathers those that wait, writes them to FILE past the page cache, calls fdatasync, answers all of
 * them, and sends each as it came to every destination over ASSOCIATIONS associations. No rules, no index, no checks, no
 * recovery, one thread for each thing. FILE is BYTES long and written from the front again when it is full; all its
 * blocks were written before (APPEND 0), as in a recycled segment, or it grows as it is written (APPEND 1).
 * Prints "ready PORT"; ends when its standard input closes. */
#define _GNU_SOURCE
#include "wire.h"
#include <fcntl.h>
#include <sys/uio.h>

#define ASSOCIATIONS 4
#define ALIGN 4096
#define GROUP 64
#define GROUP_BYTES (16u << 20)
#define LARGEST (512u << 20)

typedef struct message {
    uint8_t *bytes; size_t size, room;
    uint8_t command[512]; size_t command_size; uint8_t context;
    int stored; atomic_int holders;
    struct message *next;
} message;

typedef struct { pthread_mutex_t lock; pthread_cond_t some; struct { message *m; } *ring; size_t head, tail, room; } queue;

static queue to_store, to_send[16];
static int destinations, ports[16], spool, append;
static size_t spool_size, spool_at;
static pthread_mutex_t stored_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t stored_some = PTHREAD_COND_INITIALIZER;

static void open_queue(queue *q) {
    pthread_mutex_init(&q->lock, NULL); pthread_cond_init(&q->some, NULL);
    q->room = 1 << 16; q->ring = calloc(q->room, sizeof *q->ring); q->head = q->tail = 0;
}

static void put(queue *q, message *m) {
    pthread_mutex_lock(&q->lock);
    if (q->tail - q->head == q->room) { fprintf(stderr, "limit: a queue is full\n"); _exit(1); }
    q->ring[q->tail++ % q->room].m = m;
    pthread_cond_signal(&q->some);
    pthread_mutex_unlock(&q->lock);
}

/* Everything that waits, as far as it makes one group; at least one. */
static int take(queue *q, message **out, int most) {
    int n = 0; size_t bytes = 0;
    pthread_mutex_lock(&q->lock);
    while (q->head == q->tail) pthread_cond_wait(&q->some, &q->lock);
    while (q->head < q->tail && n < most && bytes < GROUP_BYTES) { out[n] = q->ring[q->head++ % q->room].m; bytes += out[n++]->size; }
    pthread_mutex_unlock(&q->lock);
    return n;
}

static void let_go(message *m) {
    if (atomic_fetch_sub(&m->holders, 1) == 1) { free(m->bytes); free(m); }
}

static void *store(void *unused) {
    (void)unused;
    message *group[GROUP]; struct iovec parts[GROUP];
    for (;;) {
        int n = take(&to_store, group, GROUP);
        size_t total = 0;
        for (int i = 0; i < n; i++) {
            size_t padded = (group[i]->size + ALIGN - 1) / ALIGN * ALIGN;
            memset(group[i]->bytes + group[i]->size, 0, padded - group[i]->size);
            parts[i] = (struct iovec){group[i]->bytes, padded};
            total += padded;
        }
        if (!append && spool_at + total > spool_size) spool_at = 0;
        if (pwritev(spool, parts, n, (off_t)spool_at) != (ssize_t)total || fdatasync(spool)) { perror("limit: spool"); _exit(1); }
        spool_at += total;
        for (int d = 0; d < destinations; d++)
            for (int i = 0; i < n; i++) put(&to_send[d], group[i]);
        pthread_mutex_lock(&stored_lock);
        for (int i = 0; i < n; i++) group[i]->stored = 1;
        pthread_cond_broadcast(&stored_some);
        pthread_mutex_unlock(&stored_lock);
    }
    return NULL;
}

static void *forward(void *arg) {
    int d = (int)(long)arg, fd = -1;
    uint8_t answer[65536];
    for (;;) {
        message *m = NULL;
        take(&to_send[d], &m, 1);
        while (fd < 0 && (fd = associate_to("127.0.0.1", ports[d], "SINK", "LIMIT", NULL)) < 0) usleep(10000);
        if (send_all(fd, m->bytes, m->size) || recv_all(fd, answer, 6) || get32be(answer + 2) > sizeof answer || recv_all(fd, answer, get32be(answer + 2))) {
            fprintf(stderr, "limit: a destination went away\n"); _exit(1);
        }
        set_options(fd);
        let_go(m);
    }
    return NULL;
}

static void *serve(void *arg) {
    int fd = (int)(long)arg;
    uint8_t head[6], *small = malloc(1 << 20), *out = malloc(1 << 16);
    message *m = NULL;
    while (!recv_all(fd, head, 6)) {
        uint32_t n = get32be(head + 2);
        if (n > 1 << 20) break;
        if (head[0] != 4) {
            if (recv_all(fd, small, n)) break;
            if (head[0] == 1) { if (send_all(fd, out, accept_pdu(small, n, out))) break; continue; }
            if (head[0] == 5) { uint8_t rp[10] = {6, 0, 0, 0, 0, 4}; send_all(fd, rp, 10); }
            break;
        }
        if (!m) { m = calloc(1, sizeof *m); m->room = 1 << 20; m->bytes = aligned_alloc(ALIGN, m->room); }
        if (m->size + 6 + n + ALIGN > m->room) {
            if (m->room >= LARGEST) break;
            uint8_t *more = aligned_alloc(ALIGN, m->room *= 2);
            memcpy(more, m->bytes, m->size); free(m->bytes); m->bytes = more;
        }
        uint8_t *body = m->bytes + m->size + 6;
        memcpy(body - 6, head, 6);
        if (recv_all(fd, body, n)) break;
        m->size += 6 + n;
        int last = 0;
        for (uint32_t i = 0; i + 6 <= n;) {
            uint32_t k = get32be(body + i); m->context = body[i + 4]; uint8_t flags = body[i + 5];
            if (k < 2 || i + 4 + k > n) goto out;
            if (flags & 1) { if (m->command_size + k > sizeof m->command) goto out; memcpy(m->command + m->command_size, body + i + 6, k - 2); m->command_size += k - 2; }
            else if (flags & 2) last = 1;
            i += 4 + k;
        }
        set_options(fd);
        if (!last) continue;
        uint8_t command[512], context = m->context; size_t c = m->command_size;
        memcpy(command, m->command, c);
        atomic_store(&m->holders, destinations + 1);
        put(&to_store, m);
        pthread_mutex_lock(&stored_lock);
        while (!m->stored) pthread_cond_wait(&stored_some, &stored_lock);
        pthread_mutex_unlock(&stored_lock);
        let_go(m); m = NULL;
        if (send_all(fd, out, answer_pdu(command, c, context, out))) break;
    }
out:
    close(fd);
    if (m) { free(m->bytes); free(m); }
    free(small); free(out);
    return NULL;
}

static void *watch(void *unused) {
    (void)unused;
    char b[64];
    while (read(0, b, sizeof b) > 0) {}
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc < 5 || argc > 5 + 16) { fprintf(stderr, "usage: limit PORT FILE BYTES APPEND DESTINATION_PORT ...\n"); return 2; }
    spool_size = (size_t)atol(argv[3]); append = atoi(argv[4]); destinations = argc - 5;
    spool = open(argv[2], O_RDWR | O_CREAT | O_TRUNC | O_DIRECT, 0600);
    uint8_t *zeros = aligned_alloc(ALIGN, 4 << 20);
    memset(zeros, 0, 4 << 20);
    for (size_t at = 0; !append && at < spool_size; at += 4 << 20)
        if (pwrite(spool, zeros, 4 << 20, (off_t)at) != 4 << 20) { perror("limit: spool"); return 1; }
    if (spool < 0 || fdatasync(spool)) { perror("limit: spool"); return 1; }
    free(zeros);
    int s = listening((uint16_t)atoi(argv[1])), n;
    if (s < 0) { perror("limit"); return 1; }
    pthread_t t;
    open_queue(&to_store);
    pthread_create(&t, NULL, store, NULL);
    for (int d = 0; d < destinations; d++) {
        ports[d] = atoi(argv[5 + d]); open_queue(&to_send[d]);
        for (n = 0; n < ASSOCIATIONS; n++) pthread_create(&t, NULL, forward, (void *)(long)d);
    }
    pthread_create(&t, NULL, watch, NULL);
    for (;;) {
        int fd = accept(s, NULL, NULL);
        if (fd < 0) continue;
        set_options(fd);
        pthread_create(&t, NULL, serve, (void *)(long)fd); pthread_detach(t);
    }
}
