/* A destination that answers 0x0000 at once, keeps nothing, and says what it got.
 *
 *   sink PORT EXPECT LOG
 *
 * Accepts any presentation context with its first transfer syntax, grants an asynchronous operations window when one is
 * proposed. LOG gets "uid hash seconds" per object: when its last byte came, on the monotonic clock. Prints "ready PORT" when it listens
 * (PORT 0: any), and "done SECONDS" when EXPECT objects have arrived; ends when its standard input closes. */
#include "wire.h"

static atomic_long arrived;
static long expect;
static FILE *logfile;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

static void *serve(void *arg) {
    int fd = (int)(long)arg;
    size_t room = 1 << 20, used = 0;
    uint8_t *body = malloc(1 << 20), *data = malloc(room), *out = malloc(1 << 16);
    uint8_t head[6], command[4096]; size_t c = 0;
    while (!recv_all(fd, head, 6)) {
        uint32_t n = get32be(head + 2);
        if (n > 1 << 20) break;
        if (recv_all(fd, body, n)) break;
        if (head[0] == 1) { size_t k = accept_pdu(body, n, out); if (send_all(fd, out, k)) break; continue; }
        if (head[0] == 5) { uint8_t rp[10] = {6, 0, 0, 0, 0, 4}; send_all(fd, rp, 10); break; }
        if (head[0] != 4) break;
        int ended = 0; uint8_t ctx = 1;
        for (uint32_t i = 0; i + 6 <= n;) {
            uint32_t k = get32be(body + i); ctx = body[i + 4]; uint8_t flags = body[i + 5];
            if (k < 2 || i + 4 + k > n) goto out;
            if (flags & 1) { if (c + k > sizeof command) goto out; memcpy(command + c, body + i + 6, k - 2); c += k - 2; }
            else {
                while (used + k > room) { room *= 2; data = realloc(data, room); }
                memcpy(data + used, body + i + 6, k - 2); used += k - 2;
            }
            if ((flags & 3) == 2) ended = 1;
            if ((flags & 3) == 3) for (size_t j = 0; j + 10 <= c;) { /* a C-ECHO has no data set */
                uint32_t q; memcpy(&q, command + j + 4, 4);
                if (command[j + 2] == 0 && command[j + 3] == 8 && command[j + 8] == 1 && command[j + 9] == 1) ended = 1;
                j += 8 + q;
            }
            i += 4 + k;
        }
        set_options(fd);
        if (!ended) continue;
        double at = now_s();
        char uid[65] = ""; uint16_t field = 1; uint32_t uid_n = 0;
        for (size_t j = 0; j + 8 <= c;) {
            uint32_t q; memcpy(&q, command + j + 4, 4);
            uint16_t e = command[j + 2] | command[j + 3] << 8;
            if (j + 8 + q > c) break;
            if (e == 0x0100) memcpy(&field, command + j + 8, 2);
            if (e == 0x1000 && q <= 64) { memcpy(uid, command + j + 8, q); uid[q] = 0; uid_n = q; }
            j += 8 + q;
        }
        if (field == 1) {
            uint64_t h = object_hash(content_hash(data, used < HEAD ? used : HEAD), used > HEAD ? content_hash(data + HEAD, used - HEAD) : 0);
            pthread_mutex_lock(&log_lock);
            fprintf(logfile, "%.*s %016lx %.6f\n", (int)uid_n, uid, h, at);
            pthread_mutex_unlock(&log_lock);
        }
        if (send_all(fd, out, answer_pdu(command, c, ctx, out))) break;
        c = used = 0;
        if (field == 1 && atomic_fetch_add(&arrived, 1) + 1 == expect) {
            pthread_mutex_lock(&log_lock); fflush(logfile); pthread_mutex_unlock(&log_lock);
            printf("done %.6f\n", now_s()); fflush(stdout);
        }
    }
out:
    close(fd);
    free(body); free(data); free(out);
    return NULL;
}

static void *watch(void *arg) {
    (void)arg;
    char b[64];
    while (read(0, b, sizeof b) > 0) {}
    pthread_mutex_lock(&log_lock); fflush(logfile);
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc != 4) { fprintf(stderr, "usage: sink PORT EXPECT LOG\n"); return 2; }
    expect = atol(argv[2]); logfile = fopen(argv[3], "w");
    int s = listening((uint16_t)atoi(argv[1]));
    if (!logfile || s < 0) { perror("sink"); return 1; }
    pthread_t t; pthread_create(&t, NULL, watch, NULL);
    for (;;) {
        int fd = accept(s, NULL, NULL);
        if (fd < 0) continue;
        set_options(fd);
        pthread_create(&t, NULL, serve, (void *)(long)fd); pthread_detach(t);
    }
}
