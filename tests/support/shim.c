/* Preloaded into the daemon: a resolver, a wall clock and an event loop that a test can spoil while it runs.

   $SHIM_NAME is the one name that is looked up in the page, all others go to the C library. The page is a file of
   $SHIM_PAGE, shared with the test: see tests/support/shim.py. No headers and no libc to link: gcc alone is enough. */
typedef long time_t_;
struct timespec_ { time_t_ tv_sec; long tv_nsec; };
struct timeval_ { time_t_ tv_sec; long tv_usec; };
struct page {
    volatile long ahead;    /* seconds that the wall clock is ahead */
    volatile long block_ns; /* how long the main thread's next look at a clock takes, once */
    char address[64];       /* what the name resolves to; empty: it does not */
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

__attribute__((constructor)) static void begin(void)
{
    int fd = open(getenv("SHIM_PAGE"), 2 /* O_RDWR */);
    void *found = mmap(0, sizeof *page, 1 | 2 /* PROT_READ | PROT_WRITE */, 1 /* MAP_SHARED */, fd, 0);
    close(fd);
    next_clock = NEXT("clock_gettime");
    next_lookup = NEXT("getaddrinfo");
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

int getaddrinfo(const char *node, const char *service, const void *hints, void **found)
{
    if (page && name && node && !strcmp(node, name)) {
        if (!page->address[0])
            return -2; /* EAI_NONAME */
        node = page->address;
    }
    return next_lookup(node, service, hints, found);
}
