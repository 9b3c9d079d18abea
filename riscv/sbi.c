/* sbi.c - the firmware that guests see (SBI specification 2.0; chapters are named below).
 *
 * Extension in a7, function in a6, arguments from a0 on; error in a0 and value in a1. The legacy
 * calls (chapter 5) return in a0 alone. Addresses and lengths come from a guest: a call looks at
 * 256 bytes at most, all of them in the guest's memory, and says how many it took. */
#include "hyper.h"

enum { PUTCHAR = 1, GETCHAR = 2 }; /* legacy */
enum { BASE = 0x10, TIME = 0x54494d45, RESET = 0x53525354, DEBUG_CONSOLE = 0x4442434e };
enum { SUCCESS = 0, NOT_SUPPORTED = -2, INVALID_PARAM = -3 };

#define CHUNK 256

static int input(struct guest *guest)
{
    guest_flush(guest); /* a prompt */
    return firmware_getc();
}

static void shut_down(struct guest *guest, const char *why)
{
    guest_end(guest, "shut down%s after %lu call%s and %lu page fault%s", why, guest->calls,
              guest->calls == 1 ? "" : "s", guest->pages, guest->pages == 1 ? "" : "s");
}

static void set_timer(struct guest *guest, uint64_t time)
{
    guest->timer = time;
    vcpu_set_timer_interrupt(false);
}

/* Chapter 4. */
static long base(uint64_t function, uint64_t argument, uint64_t *value)
{
    switch (function) {
    case 0: *value = 2 << 24; break; /* this specification, 2.0 */
    case 1: *value = 0x6d6b; break;  /* an implementation that nobody registered */
    case 2: break;                   /* its version */
    case 3:
        *value = argument == PUTCHAR || argument == GETCHAR || argument == BASE ||
                 argument == TIME || argument == RESET || argument == DEBUG_CONSOLE;
        break;
    case 4: /* mvendorid, marchid, mimpid: 0 is always right */
    case 5:
    case 6: break;
    default: return NOT_SUPPORTED;
    }
    return SUCCESS;
}

/* Chapter 10: shutdown is type 0; nobody starts a guest again, as types 1 and 2 ask. */
static long reset(struct guest *guest, uint32_t type, uint32_t reason)
{
    if (type > 2 || reason > 1)
        return INVALID_PARAM;
    if (type)
        return NOT_SUPPORTED;
    shut_down(guest, reason ? " because it failed," : "");
    return SUCCESS;
}

/* Chapter 12, functions 0 and 1: write and read. */
static long transfer(struct guest *guest, bool read, uint64_t count, uint64_t gpa, uint64_t *done)
{
    for (; *done < count && *done < CHUNK; ++*done) {
        uint64_t at = gpa + *done;
        char *byte = in_guest(at) ? guest_memory(guest, at, false) : NULL;
        int c = byte && read ? input(guest) : 0;

        if (!byte)
            return *done = 0, INVALID_PARAM;
        if (c < 0)
            break;
        if (read)
            *byte = (char)c;
        else
            guest_putc(guest, *byte);
    }
    return SUCCESS;
}

static long debug_console(struct guest *guest, uint64_t function, const uint64_t *a,
                          uint64_t *value)
{
    if (function == 0 || function == 1)
        return transfer(guest, function == 1, a[0], a[2] ? NEVER : a[1], value);
    if (function != 2)
        return NOT_SUPPORTED;
    guest_putc(guest, (char)a[0]);
    return SUCCESS;
}

static long call(struct guest *guest, const uint64_t *a, uint64_t *value)
{
    uint64_t extension = a[7], function = a[6];

    if (extension == BASE)
        return base(function, a[0], value);
    if (extension == DEBUG_CONSOLE)
        return debug_console(guest, function, a, value);
    if (extension == RESET && function == 0)
        return reset(guest, (uint32_t)a[0], (uint32_t)a[1]);
    if (extension != TIME || function != 0)
        return NOT_SUPPORTED;
    set_timer(guest, a[0]); /* chapter 6 */
    return SUCCESS;
}

void sbi_call(struct guest *guest)
{
    uint64_t *a = guest->vcpu.x + 10, value = 0;

    guest->vcpu.pc += 4; /* an ecall has no short form */
    guest->calls++;
    if (a[7] == PUTCHAR) {
        guest_putc(guest, (char)a[0]);
        a[0] = SUCCESS;
    } else if (a[7] == GETCHAR) {
        a[0] = (uint64_t)input(guest);
    } else {
        a[0] = (uint64_t)call(guest, a, &value);
        a[1] = value;
    }
}
