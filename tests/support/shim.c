/* Preloaded into the daemon: a resolver, a wall clock, an event loop and a disk that a test can spoil while it runs.
   It also measures how much CPU one turn of the event loop uses.

   $SHIM_NAME is the one name that is looked up in the page, all others go to the C library. The page is a file of
   $SHIM_PAGE, shared with the test: see tests/support/shim.py. No headers and no libc to link: gcc alone is enough. */
typedef long time_t_;
struct timespec_ { time_t_ tv_sec; long tv_nsec; };
struct timeval_ { time_t_ tv_sec; long tv_usec; };
struct page {
    volatile long ahead;    /* seconds that the wall clock is ahead */
    volatile long block_ns; /* how long the main thread's next look at a clock takes, once */
    volatile long turn_ns;  /* the most CPU time that the main thread used between two waits for events */
    char address[64];       /* what the name resolves to; empty: it does not; "?": nobody answers */
    char hung[256];         /* whoever opens, or asks about, a path that begins like this waits; empty: nobody */
};

void *dlsym(void *, const char *);
char *getenv(const char *);
int open(const char *, int, ...);
void *mmap(void *, unsigned long, int, int, int, long);
int close(int);
int strcmp(const char *, const char *);
int getpid(void);
int gettid(void);
int nanosleep(const struct timespec_ *, struct timespec_ *);

#define NEXT(name) dlsym((void *)-1L /* RTLD_NEXT */, name)

static struct page *page;
static const char *name;
static int (*next_clock)(int, struct timespec_ *);
static int (*next_lookup)(const char *, const char *, const void *, void **);
static int (*next_wait)(int, void *, int, int, const void *);

__attribute__((constructor)) static void begin(void)
{
    int fd = open(getenv("SHIM_PAGE"), 2 /* O_RDWR */);
    void *found = mmap(0, sizeof *page, 1 | 2 /* PROT_READ | PROT_WRITE */, 1 /* MAP_SHARED */, fd, 0);
    close(fd);
    next_clock = NEXT("clock_gettime");
    next_lookup = NEXT("getaddrinfo");
    next_wait = NEXT("epoll_pwait");
    name = getenv("SHIM_NAME");
    page = found == (void *)-1L ? 0 : found;
}

int clock_gettime(int clock, struct timespec_ *now)
{
    if (!next_clock) /* somebody's constructor comes before ours */
        next_clock = NEXT("clock_gettime");
    if (page && page->block_ns && getpid() == gettid()) {
        struct timespec_ pause = {page->block_ns / 1000000000, page->block_ns % 1000000000};
        page->block_ns = 0;
        nanosleep(&pause, 0);
    }
    int failed = next_clock(clock, now);
    if (!failed && page && (clock == 0 /* CLOCK_REALTIME */ || clock == 5 /* CLOCK_REALTIME_COARSE */))
        now->tv_sec += page->ahead;
    return failed;
}

int gettimeofday(struct timeval_ *now, void *zone)
{
    struct timespec_ precise;
    (void)zone;
    clock_gettime(0, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t_ time(time_t_ *where)
{
    struct timespec_ now;
    clock_gettime(0, &now);
    if (where)
        *where = now.tv_sec;
    return now.tv_sec;
}

static long used_ns(void)
{
    struct timespec_ used;
    next_clock(3 /* CLOCK_THREAD_CPUTIME_ID */, &used);
    return used.tv_sec * 1000000000 + used.tv_nsec;
}

/* uvloop waits here, once in each turn. */
int epoll_pwait(int epoll, void *events, int most, int timeout, const void *mask)
{
    static long began; /* the CPU time that was used before this turn; 0: there was none before */
    if (!page || getpid() != gettid())
        return next_wait(epoll, events, most, timeout, mask);
    if (began) {
        long turn = used_ns() - began;
        if (turn > page->turn_ns)
            page->turn_ns = turn;
    }
    int found = next_wait(epoll, events, most, timeout, mask);
    began = used_ns();
    return found;
}

int getaddrinfo(const char *node, const char *service, const void *hints, void **found)
{
    int is_numeric = hints && *(const int *)hints & 4; /* AI_NUMERICHOST of ai_flags: nobody is asked */
    if (page && name && node && !is_numeric && !strcmp(node, name)) {
        struct timespec_ pause = {0, 10000000};
        while (page->address[0] == '?')
            nanosleep(&pause, 0);
        if (!page->address[0])
            return -2; /* EAI_NONAME */
        node = page->address;
    }
    return next_lookup(node, service, hints, found);
}

/* A disk that does not answer, until it does. */
static const char *answered(const char *path)
{
    struct timespec_ pause = {0, 10000000};
    for (;;) {
        unsigned long n = 0;
        while (page && path && page->hung[n] && page->hung[n] == path[n])
            n++;
        if (!page || !path || !n || page->hung[n])
            return path;
        nanosleep(&pause, 0);
    }
}

#define MODE(last) \
    __builtin_va_list rest; \
    __builtin_va_start(rest, last); \
    unsigned mode = __builtin_va_arg(rest, unsigned); \
    __builtin_va_end(rest)
#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        MODE(flags); \
        return ((int (*)(const char *, int, unsigned))NEXT(#name))(answered(path), flags, mode); \
    }
#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) \
    { \
        MODE(flags); \
        return ((int (*)(int, const char *, int, unsigned))NEXT(#name))(folder, answered(path), flags, mode); \
    }
#define STAT(name) \
    int name(const char *path, void *found) \
    { \
        return ((int (*)(const char *, void *))NEXT(#name))(answered(path), found); \
    }
#define STATAT(name) \
    int name(int folder, const char *path, void *found, int flags) \
    { \
        return ((int (*)(int, const char *, void *, int))NEXT(#name))(folder, answered(path), found, flags); \
    }
#define FOPEN(name) \
    void *name(const char *path, const char *mode) \
    { \
        return ((void *(*)(const char *, const char *))NEXT(#name))(answered(path), mode); \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
STAT(stat)
STAT(stat64)
STAT(lstat)
STAT(lstat64)
STATAT(fstatat)
STATAT(fstatat64)
FOPEN(fopen)
FOPEN(fopen64)
