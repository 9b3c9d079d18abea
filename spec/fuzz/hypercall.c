/* hypercall.c - the hypercall port and the debug console: calls with any registers, buffers
 * anywhere, input from the host (src/dev/hypercall.c, src/io/console*.c, watch.c). */
#include "fuzz.h"

#include "base/abi.h"
#include "dev/bus.h"
#include "dev/debugcon.h"
#include "dev/exit.h"
#include "dev/hypercall.h"
#include "io/watch.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

static struct mk_bus bus;
static struct mk_console console;
static struct mk_devs devices;
static struct mk_hypercall hypercall;
static struct mk_debugcon debugcon;
static struct mk_dev exit_port;
static struct fuzz_cpu cpu;
static uint64_t lines;

static void on_line(void *ctx, struct mk_cpu *c, const char *line, size_t length, bool more)
{
    (void)ctx, (void)c, (void)more;
    fuzz_check(length <= MK_CONSOLE_LINE);
    lines += length ? !line[length - 1] : 1;
}

static void init(void)
{
    struct mk_err err;
    struct mk_bus *const buses[MK_SPACES] = { &bus };
    fuzz_mem_open();
    mk_bus_init(&bus, MK_SPACE_PORTS);
    mk_console_init(&console);
    console.history_limit = 5000;
    console.on_line = on_line;
    mk_devs_add(&devices, mk_debugcon_init(&debugcon, &console), &mk_debugcon_dev);
    mk_devs_add(&devices, &exit_port, &mk_exit_dev);
    mk_devs_add(&devices, mk_hypercall_init(&hypercall, &console, &fuzz_mem), &mk_hypercall_dev);
    fuzz_check(mk_devs_attach(&devices, buses, &err) == 0 && mk_devs_grow(&devices, 1, &err) == 0);
    int null = open("/dev/null", O_WRONLY);
    mk_console_set_output(&console, null);
}

static void call(struct fuzz_in *in)
{
    static const uint8_t numbers[] = { MK_HC_EXIT, MK_HC_PUTCHAR, MK_HC_GETCHAR, MK_HC_WRITE,
                                       MK_HC_READ, MK_HC_WRITE,   MK_HC_READ,    0xee };
    uint8_t what = fuzz_u8(in);
    cpu.reg[MK_RBX] = fuzz_address(in);
    cpu.reg[MK_RCX] = what & 0x10 ? fuzz_u32(in) : fuzz_u16(in);
    cpu.reg[MK_RAX] = numbers[what & 7];
    mk_bus_out(&bus, &cpu.cpu, MK_PORT_HYPERCALL, 1, what & 8 ? fuzz_u8(in) : numbers[what & 7],
               NULL);
    mk_bus_in(&bus, &cpu.cpu, MK_PORT_HYPERCALL, what & 0x20 ? 1 : 4, NULL);
}

/* Input from a file of the host's, where Ctrl-A is a command key. */
static void attach_file(struct fuzz_in *in)
{
    static int file = -1;
    size_t n;
    uint8_t how = fuzz_u8(in);
    const uint8_t *bytes = fuzz_bytes(in, fuzz_u8(in), &n);
    if (file < 0)
        file = memfd_create("input", MFD_CLOEXEC);
    fuzz_check(ftruncate(file, 0) == 0 && pwrite(file, bytes, n, 0) == (ssize_t)n);
    fuzz_check(lseek(file, 0, SEEK_SET) == 0);
    const struct mk_console_input from = { .fd = how & 1 ? file : -1, .escape = how & 2 };
    mk_console_set_input(&console, &from);
    mk_console_begin(&console);
    for (unsigned i = how >> 4; i; i--)
        mk_console_peek(&console);
}

static void reload(struct fuzz_in *in)
{
    struct mk_bytes state = { 0 };
    mk_devs_save(&devices, 0, &state, NULL);
    for (unsigned n = fuzz_u8(in) % 4; n && state.length; n--)
        state.data[fuzz_u16(in) % state.length] = fuzz_u8(in);
    if (mk_devs_load(&devices, 0, &state, MK_LOAD_ALL, NULL) < 0)
        mk_devs_reset(&devices);
    mk_bytes_free(&state);
}

static void one(const uint8_t *bytes, size_t length)
{
    struct fuzz_in in = { bytes, length };
    struct mk_err err;
    size_t n;
    const uint8_t *part;
    fuzz_mem_reset();
    fuzz_cpu_reset(&cpu);
    mk_console_reset(&console);
    console.lines = fuzz_u8(&in) & 1;
    while (in.left) {
        fuzz_steps++;
        switch (fuzz_u8(&in) & 7) {
        case 0:
        case 1:
        case 2: call(&in); break;
        case 3: mk_bus_out(&bus, &cpu.cpu, MK_PORT_DEBUGCON, 1, fuzz_u8(&in), NULL); break;
        case 4:
            part = fuzz_bytes(&in, fuzz_u8(&in), &n);
            mk_console_send(&console, (const char *)part, n, &err);
            break;
        case 5: fuzz_poke(&in); break;
        case 6: fuzz_u8(&in) & 1 ? reload(&in) : attach_file(&in); break;
        default: mk_console_end_lines(&console, &cpu.cpu); break;
        }
    }
}

FUZZ_TARGET(hypercall, init, one)
