/* agent.c - the program in a Linux guest that does what the host asks: runs commands, moves files,
 * reads the kernel's log, sets the clock and stirs the random numbers.
 *
 * docs/abi.md, "Agent", has the protocol: a question or an answer lies in a window of low memory
 * that a PC keeps for adapters, and an OUT to a port tells the host. The host lets the guest stand
 * at that OUT until it has the next question, so the agent waits without polling.
 *
 * One process without libraries, most often the first of the guest. It needs root, /dev/mem
 * (CONFIG_DEVMEM) and iopl(2) (CONFIG_X86_IOPL_IOPERM). */
#include "abi.h"
#include "linux.h"

enum { CHUNK = MK_AGENT_WINDOW_SIZE - sizeof(struct frame) }; /* bytes in one question or answer */

static struct frame *window;
static char **environment;
static uint8_t question[CHUNK + 1];
static uint32_t sequence; /* of the question that is being answered */
static int target = -1;   /* the file that DATA goes to */
static int input = -1;    /* what the next command reads */
static int children = -1; /* a signalfd: some child has ended */

/* --- frames --- */

/* CRC-32 of IEEE 802.3, as zlib has it. */
static uint32_t crc32(uint32_t crc, const void *bytes, size_t length)
{
    static uint32_t table[256];

    for (uint32_t i = 0; !table[255] && i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? 0xedb88320 : 0);
        table[i] = value;
    }
    crc = ~crc;
    for (const uint8_t *at = bytes, *end = at + length; at < end; at++)
        crc = crc >> 8 ^ table[(crc ^ *at) & 0xff];
    return ~crc;
}

/* Of all of a frame but the sum itself. */
static uint32_t sum_of(const struct frame *f, uint32_t length)
{
    return crc32(crc32(0, f, offsetof(struct frame, sum)), f->bytes, length);
}

/* Hands over what is in window->bytes. Returns when the host lets the guest go on. */
static void answer(uint32_t kind, int32_t status, uint32_t length)
{
    window->magic = MK_AGENT_ANSWER;
    window->sequence = sequence;
    window->kind = kind;
    window->status = status;
    window->length = length;
    window->sum = sum_of(window, length);
    __asm__ volatile("out dx, eax" : : "d"(MK_PORT_AGENT), "a"(sequence) : "memory");
}

static void end(int32_t status)
{
    answer(MK_AGENT_END, status, 0);
}

/* --- files --- */

static int32_t write_all(int file, const uint8_t *bytes, size_t length)
{
    while (length) {
        long n = call3(SYS_write, file, (long)bytes, (long)length);
        if (n < 0)
            return (int32_t)n;
        bytes += n;
        length -= (size_t)n;
    }
    return 0;
}

static int32_t close_file(int *file)
{
    int32_t status = 0;

    if (*file >= 0)
        status = (int32_t)call1(SYS_close, *file);
    *file = -1;
    return status;
}

static int32_t create(const char *path, int32_t mode)
{
    close_file(&target);
    target = (int)call3(SYS_open, (long)path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    if (target < 0)
        return target;
    call2(SYS_fchmod, target, mode); /* whatever the umask is */
    return 0;
}

/* What the next command reads comes as DATA. */
static int32_t create_input(void)
{
    close_file(&input);
    input = (int)call2(SYS_memfd_create, (long)"input", MFD_CLOEXEC);
    return input < 0 ? input : 0;
}

/* A file's bytes as answers. */
static int32_t send_file(int file)
{
    for (;;) {
        long n = call3(SYS_read, file, (long)window->bytes, CHUNK);
        if (n <= 0)
            return (int32_t)n;
        answer(MK_AGENT_DATA, 0, (uint32_t)n);
    }
}

static int32_t read_file(const char *path)
{
    int32_t status;
    int file = (int)call2(SYS_open, (long)path, O_RDONLY | O_CLOEXEC);

    if (file < 0)
        return file;
    status = send_file(file);
    close_file(&file);
    return status;
}

/* --- commands --- */

static _Noreturn void become_shell(const char *command, int output)
{
    static const char lost[] = "minikvm-agent: cannot run /bin/sh\n";
    const char *words[] = { "sh", "-c", command, NULL };
    uint64_t none = 0;

    call0(SYS_setsid);
    call2(SYS_dup2, input, 0);
    call2(SYS_dup2, output, 1);
    call2(SYS_dup2, output, 2);
    call1(SYS_iopl, 0);
    call4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&none, 0, sizeof(none));
    call3(SYS_execve, (long)"/bin/sh", (long)words, (long)environment);
    call3(SYS_write, 2, (long)lost, sizeof(lost) - 1);
    call1(SYS_exit, 127);
    __builtin_unreachable();
}

/* Starts a command in a child, whose memory is this process's until it has become the shell
 * (vfork(2)): it calls, and never returns from here. */
static long start_shell(const char *command, int output)
{
    long child = call2(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0);

    if (child == 0)
        become_shell(command, output);
    return child;
}

/* Takes leave of all children that have ended. Whether `child` was among them: then *status is
 * set. */
static bool reap(long child, int *status)
{
    struct signalfd_siginfo info;
    bool found = false;
    int how;
    long pid;

    call3(SYS_read, children, (long)&info, sizeof(info));
    while ((pid = call4(SYS_wait4, -1, (long)&how, WNOHANG, 0)) > 0) {
        if (pid == child) {
            *status = how;
            found = true;
        }
    }
    return found;
}

/* Passes on what there is of a command's output: false when no more can come. */
static bool relay(int output)
{
    int32_t status = send_file(output); /* it does not block */

    return status == -EAGAIN;
}

/* Reads, in a process of its own, what a command's background prints from now on: into nothing. */
static void discard(int output)
{
    if (call0(SYS_fork))
        return;
    call3(SYS_fcntl, output, F_SETFL, 0);
    while (call3(SYS_read, output, (long)question, CHUNK) > 0)
        ;
    call1(SYS_exit, 0);
}

/* Waits for the command itself: what it leaves in the background may keep its output open. */
static int32_t relay_until_end(long child, int output)
{
    struct pollfd files[2] = { { output, POLLIN, 0 }, { children, POLLIN, 0 } };
    int status = 0;
    bool ended = false;

    while (!ended) {
        call3(SYS_poll, (long)files, 2, -1);
        if (files[1].revents)
            ended = reap(child, &status);
        if (files[0].fd >= 0 && (ended || files[0].revents) && !relay(output))
            files[0].fd = -1;
    }
    if (files[0].fd >= 0)
        discard(output);
    return status;
}

/* Runs a command with its output as answers. Returns its status as wait(2) has it. */
static int32_t run(const char *command)
{
    int32_t status = 0;
    int ends[2];
    long child;

    if (input < 0)
        status = create_input(); /* an empty one */
    if (status == 0)
        status = (int32_t)call2(SYS_pipe2, (long)ends, O_CLOEXEC);
    if (status < 0)
        return status;
    call3(SYS_lseek, input, 0, SEEK_SET);
    call3(SYS_fcntl, ends[0], F_SETFL, O_NONBLOCK);
    child = start_shell(command, ends[1]);
    close_file(&ends[1]);
    close_file(&input);
    status = child < 0 ? (int32_t)child : relay_until_end(child, ends[0]);
    close_file(&ends[0]);
    return status;
}

/* The first shell costs more than any later one: what the kernel sets up for it is in snapshots
 * then. */
static void warm_up(void)
{
    if (create_input() == 0)
        call4(SYS_wait4, start_shell("true", input), 0, 0, 0);
    close_file(&input);
}

/* --- the kernel --- */

static int32_t send_log(void)
{
    long size = call3(SYS_syslog, SYSLOG_SIZE_BUFFER, 0, 0), length;
    uint8_t *text;

    if (size < 0)
        return (int32_t)size;
    text = map(size, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (is_error(text))
        return (int32_t)(long)text;
    length = call3(SYS_syslog, SYSLOG_READ_ALL, (long)text, size);
    for (long at = 0, n; at < length; at += n) {
        n = length - at < CHUNK ? length - at : CHUNK;
        memcpy(window->bytes, text + at, (size_t)n);
        answer(MK_AGENT_DATA, 0, (uint32_t)n);
    }
    call2(SYS_munmap, (long)text, size);
    return length < 0 ? (int32_t)length : 0;
}

static int32_t set_clock(int64_t seconds)
{
    struct timespec now = { seconds, 0 };

    return (int32_t)call2(SYS_clock_settime, CLOCK_REALTIME, (long)&now);
}

/* Adds bytes to the pool as so many new random bits, and draws from it at once (random(4)). */
static int32_t stir(const uint8_t *bytes, uint32_t length)
{
    struct {
        int32_t bits, size;
        uint8_t bytes[256];
    } pool = { 0 };
    long file = call2(SYS_open, (long)"/dev/urandom", O_RDWR | O_CLOEXEC), status;

    if (file < 0)
        return (int32_t)file;
    pool.size = (int32_t)(length < sizeof(pool.bytes) ? length : sizeof(pool.bytes));
    pool.bits = 8 * pool.size;
    memcpy(pool.bytes, bytes, (size_t)pool.size);
    status = call3(SYS_ioctl, file, RNDADDENTROPY, (long)&pool);
    call3(SYS_ioctl, file, RNDRESEEDCRNG, 0); /* before Linux 4.17 there is none */
    call1(SYS_close, file);
    return (int32_t)status;
}

/* Seconds since 1970, 0 for none, then random bytes. */
static int32_t renew(uint32_t length)
{
    int64_t seconds;
    int32_t status = 0;

    if (length < sizeof(seconds))
        return -EINVAL;
    memcpy(&seconds, question, sizeof(seconds));
    if (seconds)
        status = set_clock(seconds);
    if (status == 0 && length > sizeof(seconds))
        status = stir(question + sizeof(seconds), length - (uint32_t)sizeof(seconds));
    return status;
}

/* --- questions --- */

static int32_t obey(uint32_t kind, int32_t argument, uint32_t length)
{
    const char *text = (const char *)question; /* a NUL follows it */

    switch (kind) {
    case MK_AGENT_RUN: return run(text);
    case MK_AGENT_INPUT: return create_input();
    case MK_AGENT_FEED: return write_all(input, question, length);
    case MK_AGENT_READ: return read_file(text);
    case MK_AGENT_CREATE: return create(text, argument);
    case MK_AGENT_WRITE: return write_all(target, question, length);
    case MK_AGENT_CLOSE: return close_file(&target);
    case MK_AGENT_LOG: return send_log();
    case MK_AGENT_RENEW: return renew(length);
    default: return -ENOSYS;
    }
}

static void serve(void)
{
    uint32_t kind = window->kind, length = window->length;
    int32_t argument = window->status;

    sequence = window->sequence;
    if (length > CHUNK || window->sum != sum_of(window, length)) {
        end(-EBADMSG);
        return;
    }
    memcpy(question, window->bytes, length);
    question[length] = 0;
    window->magic = 0;
    end(obey(kind, argument, length));
}

/* --- the beginning --- */

static _Noreturn void fail(const char *what)
{
    static const char start[] = "minikvm-agent: ";

    call3(SYS_write, 2, (long)start, sizeof(start) - 1);
    call3(SYS_write, 2, (long)what, (long)strlen(what));
    call1(SYS_exit, 1);
    __builtin_unreachable();
}

static void open_window(void)
{
    static const char mem[] = "/dev/mem";
    long file = call2(SYS_open, (long)mem, O_RDWR | O_CLOEXEC);

    if (file == -ENOENT) {
        call3(SYS_mknod, (long)mem, S_IFCHR | 0600, 1 << 8 | 1);
        file = call2(SYS_open, (long)mem, O_RDWR | O_CLOEXEC);
    }
    if (file < 0)
        fail("there is no /dev/mem: it takes a kernel with CONFIG_DEVMEM, and root\n");
    window = map(MK_AGENT_WINDOW_SIZE, MAP_SHARED, file, MK_AGENT_WINDOW);
    if (is_error(window))
        fail("/dev/mem does not give the memory at 0xd0000: the kernel is locked down\n");
    call1(SYS_close, file);
}

static void watch_children(void)
{
    uint64_t ended = 1 << (SIGCHLD - 1);
    uint64_t blocked = ended | 1 << (SIGPIPE - 1); /* a FIFO that nobody reads is EPIPE */

    call4(SYS_rt_sigprocmask, SIG_BLOCK, (long)&blocked, 0, sizeof(blocked));
    children =
        (int)call4(SYS_signalfd4, -1, (long)&ended, sizeof(ended), SFD_CLOEXEC | SFD_NONBLOCK);
    if (children < 0)
        fail("the kernel has no signalfd\n");
}

/* When the host lets the guest run without a question, the agent looks again every 10 ms. */
_Noreturn void start(long *stack)
{
    const struct timespec pause = { 0, 10000000 };
    int status;

    environment = (char **)(stack + 1 + stack[0] + 1);
    open_window();
    if (call1(SYS_iopl, 3) < 0)
        fail("it takes a kernel with CONFIG_X86_IOPL_IOPERM, and root\n");
    warm_up();
    watch_children();
    answer(MK_AGENT_READY, 0, 0);
    for (;;) {
        if (*(volatile uint32_t *)&window->magic == MK_AGENT_QUESTION) {
            serve();
        } else {
            reap(-1, &status);
            call2(SYS_nanosleep, (long)&pause, 0);
        }
    }
}

/* System V ABI, AMD64 supplement, 3.4.1: argc, argv, NULL and the environment lie on the stack. */
__asm__(".globl _start\n_start:\n\tmov rdi, rsp\n\tand rsp, -16\n\tcall start\n");
