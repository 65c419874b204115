/* Sends distinct, valid objects over several associations and reports when each was answered.
 *
 *   load HOST PORT CALLED CALLING ASSOCIATIONS OBJECTS SIZE PER_ASSOCIATION FIRST LOG [PAUSE_MS [RATE]]
 *
 * OBJECTS is the total; each thread keeps one association and opens a new one (a new study) after PER_ASSOCIATION
 * objects (0: never). Between two objects an association rests for PAUSE_MS; it sends RATE bytes a second, as a network would (0: as fast as it can). FIRST numbers the objects, so that runs do not share UIDs. LOG gets "uid hash status seconds sent began"
 * per object: seconds to the response, and when the last byte had been sent and the first was, on the monotonic clock. Prints one JSON line. One object is in flight per association: DICOM's default. */
#include "wire.h"

static const char *host, *called, *calling;
static int port, associations, per_association, pause_ms;
static double rate;
static long objects, first;
static size_t size;
static atomic_long next_object;
static FILE *logfile;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_long failures;
static uint32_t peer_max = 16384;

/* No faster than the rate since t0, in steps of 64 KiB. */
static int send_paced(int fd, const uint8_t *p, size_t n, double t0) {
    size_t done = 0;
    while (done < n) {
        size_t k = n - done < 65536 ? n - done : 65536;
        double wait = t0 + (double)done / rate - now_s();
        if (wait > 0) usleep((useconds_t)(wait * 1e6));
        if (send_all(fd, p + done, k)) return -1;
        done += k;
    }
    return 0;
}

static size_t element(uint8_t *p, uint16_t g, uint16_t e, const char *vr, const void *v, size_t n) {
    p[0] = g; p[1] = g >> 8; p[2] = e; p[3] = e >> 8; p[4] = vr[0]; p[5] = vr[1];
    if (!strcmp(vr, "OB") || !strcmp(vr, "OW") || !strcmp(vr, "UN")) {
        uint32_t k = (uint32_t)n;
        p[6] = p[7] = 0; memcpy(p + 8, &k, 4); memcpy(p + 12, v, n);
        return n + 12;
    }
    p[6] = n; p[7] = n >> 8; memcpy(p + 8, v, n);
    return n + 8;
}

/* The head of a data set; *uid_at is where the SOP Instance UID stands. Exactly HEAD bytes with the pixel header. */
static void build_head(uint8_t *head, const char *study, const char *series, size_t pixels, size_t *uid_at) {
    uint8_t *p = head;
    uint8_t filler[HEAD] = {0};
    uint16_t one = 1, rows = 512, bits = 16, high = 15, zero = 0;
    p += element(p, 0x0008, 0x0016, "UI", "1.2.840.10008.5.1.4.1.1.2\0", 26);
    *uid_at = (size_t)(p - head) + 8;
    p += element(p, 0x0008, 0x0018, "UI", filler, UID_LEN);
    p += element(p, 0x0008, 0x0060, "CS", "CT", 2);
    p += element(p, 0x0009, 0x0010, "LO", "BENCH FILLER", 12);
    uint8_t *filler_at = p;
    uint8_t tail[512]; uint8_t *t = tail;
    t += element(t, 0x0010, 0x0010, "PN", "BENCH^MARK", 10);
    t += element(t, 0x0010, 0x0020, "LO", "BENCH1", 6);
    t += element(t, 0x0020, 0x000D, "UI", study, UID_LEN);
    t += element(t, 0x0020, 0x000E, "UI", series, UID_LEN);
    t += element(t, 0x0028, 0x0002, "US", &one, 2);
    t += element(t, 0x0028, 0x0004, "CS", "MONOCHROME2 ", 12);
    t += element(t, 0x0028, 0x0010, "US", &rows, 2);
    t += element(t, 0x0028, 0x0011, "US", &rows, 2);
    t += element(t, 0x0028, 0x0100, "US", &bits, 2);
    t += element(t, 0x0028, 0x0101, "US", &bits, 2);
    t += element(t, 0x0028, 0x0102, "US", &high, 2);
    t += element(t, 0x0028, 0x0103, "US", &zero, 2);
    uint32_t length = (uint32_t)pixels;
    memcpy(t, "\xE0\x7F\x10\x00OW\0\0", 8); memcpy(t + 8, &length, 4); t += 12;
    size_t tail_size = (size_t)(t - tail);
    size_t fill = HEAD - (size_t)(filler_at - head) - tail_size - 12;
    p += element(p, 0x0009, 0x1001, "OB", filler, fill);
    memcpy(p, tail, tail_size);
}

static void make_uid(char *out, int kind, long number) { snprintf(out, UID_LEN + 1, "2.25.1%d%033ld", kind, number); }

static void release(int fd) {
    uint8_t rq[10] = {5, 0, 0, 0, 0, 4}, rp[10];
    if (!send_all(fd, rq, 10)) recv_all(fd, rp, 10);
    close(fd);
}

static size_t command_set(uint8_t *out, const char *uid, uint16_t id) {
    uint8_t *p = out + 12;
#define EL(e, v, n) do { uint32_t k_ = (n); p[0] = p[1] = 0; p[2] = (e) & 255; p[3] = (e) >> 8; memcpy(p + 4, &k_, 4); memcpy(p + 8, v, k_); p += 8 + k_; } while (0)
    uint16_t field = 1, priority = 0, present = 0;
    EL(0x0002, "1.2.840.10008.5.1.4.1.1.2\0", 26);
    EL(0x0100, &field, 2); EL(0x0110, &id, 2); EL(0x0700, &priority, 2); EL(0x0800, &present, 2);
    EL(0x1000, uid, UID_LEN);
    uint32_t four = 4, n = (uint32_t)(p - out - 12);
    memset(out, 0, 4); memcpy(out + 4, &four, 4); memcpy(out + 8, &n, 4);
    return (size_t)(p - out);
}

static void *run(void *arg) {
    long index = (long)arg;
    size_t pixels = size - HEAD;
    uint32_t max = peer_max;
    uint8_t head[HEAD], *body = malloc(pixels);
    uint64_t seed = 88172645463325252ull + (uint64_t)index;
    for (size_t i = 0; i + 8 <= pixels; i += 8) { seed ^= seed << 13; seed ^= seed >> 7; seed ^= seed << 17; memcpy(body + i, &seed, 8); }
    uint64_t rest = content_hash(body, pixels);
    uint8_t *out = malloc(size + 65536 + size / 1024);
    int fd = -1; long sent = 0, study = 0; size_t uid_at = 0; uint16_t id = 0;
    for (;;) {
        long n = atomic_fetch_add(&next_object, 1);
        if (n >= objects) break;
        if (pause_ms && fd >= 0) usleep((useconds_t)pause_ms * 1000);
        if (fd >= 0 && per_association && sent == per_association) { release(fd); fd = -1; }
        if (fd < 0) {
            char su[UID_LEN + 1], se[UID_LEN + 1];
            make_uid(su, 1, first * 1000 + index * 100000 + study); make_uid(se, 2, first * 1000 + index * 100000 + study); study++;
            build_head(head, su, se, pixels, &uid_at);
            if ((fd = associate_to(host, port, called, calling, &peer_max)) < 0) { atomic_fetch_add(&failures, 1); break; }
            max = peer_max ? peer_max : 131072; if (max > 131072) max = 131072;
            sent = 0;
        }
        char uid[UID_LEN + 1];
        make_uid(uid, 3, first + n);
        memcpy(head + uid_at, uid, UID_LEN);
        uint8_t *p = out, command[256];
        size_t c = command_set(command, uid, ++id);
        p[0] = 4; p[1] = 0; put32be(p + 2, (uint32_t)c + 6); put32be(p + 6, (uint32_t)c + 2); p[10] = 1; p[11] = 3; memcpy(p + 12, command, c); p += 12 + c;
        size_t at = 0, chunk = (max - 6) & ~1u;
        while (at < size) {
            size_t k = size - at < chunk ? size - at : chunk;
            p[0] = 4; p[1] = 0; put32be(p + 2, (uint32_t)k + 6); put32be(p + 6, (uint32_t)k + 2); p[10] = 1; p[11] = at + k == size ? 2 : 0; p += 12;
            size_t h = at < HEAD ? (HEAD - at < k ? HEAD - at : k) : 0;
            memcpy(p, head + at, h); memcpy(p + h, body + at + h - HEAD, k - h);
            p += k; at += k;
        }
        double t0 = now_s();
        uint8_t rsp[4096]; int status = -1;
        int failed = rate > 0 ? send_paced(fd, out, (size_t)(p - out), t0) : send_all(fd, out, (size_t)(p - out));
        double sent_at = now_s();
        if (!failed && !recv_all(fd, rsp, 6)) {
            uint32_t length = get32be(rsp + 2); set_options(fd);
            if (rsp[0] == 4 && length <= 4096 && !recv_all(fd, rsp, length))
                for (uint32_t i = 6; i + 8 <= length;) {
                    uint32_t k; memcpy(&k, rsp + i + 4, 4);
                    if (k > length - i - 8) { status = -1; break; }
                    if (rsp[i + 2] == 0 && rsp[i + 3] == 9 && k == 2) status = rsp[i + 8] | rsp[i + 9] << 8;
                    i += 8 + k;
                }
        }
        double dt = now_s() - t0;
        uint64_t hash = object_hash(content_hash(head, HEAD), rest);
        pthread_mutex_lock(&log_lock);
        fprintf(logfile, "%s %016lx %d %.6f %.6f %.6f\n", uid, hash, status, dt, sent_at, t0);
        pthread_mutex_unlock(&log_lock);
        sent++;
        if (status != 0) { atomic_fetch_add(&failures, 1); if (status < 0) { close(fd); fd = -1; } }
    }
    if (fd >= 0) release(fd);
    free(body); free(out);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 11 || argc > 13) { fprintf(stderr, "usage: load HOST PORT CALLED CALLING ASSOCIATIONS OBJECTS SIZE PER_ASSOCIATION FIRST LOG [PAUSE_MS [RATE]]\n"); return 2; }
    pause_ms = argc > 11 ? atoi(argv[11]) : 0; rate = argc > 12 ? atof(argv[12]) : 0;
    host = argv[1]; port = atoi(argv[2]); called = argv[3]; calling = argv[4]; associations = atoi(argv[5]);
    objects = atol(argv[6]); size = (size_t)atol(argv[7]); per_association = atoi(argv[8]); first = atol(argv[9]);
    logfile = fopen(argv[10], "w");
    if (!logfile || size < HEAD + 8 || size % 2) return 2;
    pthread_t *threads = calloc((size_t)associations, sizeof *threads);
    double t0 = now_s();
    for (long i = 0; i < associations; i++) pthread_create(&threads[i], NULL, run, (void *)i);
    for (int i = 0; i < associations; i++) pthread_join(threads[i], NULL);
    double dt = now_s() - t0;
    if (ferror(logfile) | fclose(logfile)) { perror("load: log"); return 1; }
    printf("{\"seconds\": %.6f, \"objects\": %ld, \"failures\": %ld}\n", dt, objects, (long)failures);
    return 0;
}
