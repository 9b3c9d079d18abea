/* net.c - virtio's network card: queues and frames of any kind from its driver, frames from a hub
 * (src/dev/net.c, net_fill.c, hub.c, virtio.c). */
#include "fuzz.h"

#include "dev/net.h"

#include <stdlib.h>

static struct mk_bus ports, mmio;
static struct mk_pci pci;
static struct mk_pic pic;
static struct mk_devs devices;
static struct mk_doorbells bells;
static struct mk_clock clock_of_vm;
static struct fuzz_cpu cpu;
static struct mk_hub *hub;
static struct mk_net *net, *other;

static void wake(void *ctx)
{
    (void)ctx;
}

static void broken(void *ctx, struct mk_cpu *c, const char *why)
{
    (void)ctx, (void)c;
    fuzz_check(strlen(why) > 0);
}

static void to_script(void *ctx, struct mk_cpu *c, const uint8_t *bytes, uint32_t length)
{
    (void)ctx, (void)c;
    fuzz_check(length <= MK_PACKET_MAX);
    fuzz_steps += length ? bytes[length - 1] >> 8 : 0;
}

static struct mk_net *plug(unsigned slot)
{
    static const uint8_t initial[MK_PCI_CONFIG] = { 0xf4, 0x1a, 0x41, 0x10, [MK_PCI_PIN] = 1 };
    static const uint8_t writable[MK_PCI_CONFIG] = { [MK_PCI_BAR0 + 1] = 0xc0, 0xff, 0xff };
    struct mk_err err;
    struct mk_pci_fn *fn = mk_pci_fn_new(&pci, "net", initial, writable, &err);
    struct mk_net *card = calloc(1, sizeof(*card));
    fuzz_check(fn && card);
    fuzz_check(mk_pci_attach(fn, (uint8_t)(slot << 3), &err) == 0);
    card->virtio.ops = &mk_net_ops;
    card->virtio.broken = broken;
    card->clock = &clock_of_vm;
    card->script = to_script;
    fuzz_check(mk_virtio_open(&card->virtio, fn, 2, &err) == 0);
    mk_net_init(card);
    mk_net_plug(card, hub);
    return card;
}

static void init(void)
{
    struct mk_err err;
    fuzz_mem_open();
    mk_bus_init(&ports, MK_SPACE_PORTS);
    mk_bus_init(&mmio, MK_SPACE_MMIO);
    mk_clock_init(&clock_of_vm);
    mk_doorbells_init(&bells, &ports, &mmio, wake, NULL);
    mk_devs_add(&devices, mk_pic_init(&pic), &mk_pic_dev);
    mk_devs_add(&devices, mk_pci_init(&pci), &mk_pci_dev);
    pci.pic = &pic;
    pci.ports = &ports;
    pci.mmio = &mmio;
    pci.doorbells = &bells;
    pci.mem = &fuzz_mem;
    hub = mk_hub_new();
    fuzz_check(hub && mk_io_ref(&err) == 0 && mk_pci_enable(&pci, &err) == 0);
    net = plug(2);
    other = plug(3);
}

/* Its driver is ready: its rings are in the first pages. */
static void start(struct mk_net *card, uint8_t shape)
{
    mk_virtio_stop(&card->virtio);
    mk_virtio_read_isr(&card->virtio);
    card->scripted = shape & 1;
    card->virtio.features = (shape & 2 ? MK_NET_FEATURES : 0u) | (shape & 4 ? 1u << 15 : 0u);
    for (unsigned i = 0; i < 2; i++) {
        const struct mk_virtio_queue queue = { .q = { .size = 8,
                                                      .desc = 0x1000 * (i + 1),
                                                      .driver = 0x1000 * (i + 1) + 0x400,
                                                      .device = 0x1000 * (i + 1) + 0x800,
                                                      .indirect = shape & 8,
                                                      .event = shape & 16 } };
        mk_virtio_start(&card->virtio, i, &queue);
    }
}

/* A descriptor of a queue, and it is offered: what a driver does. */
static void offer(struct fuzz_in *in)
{
    uint8_t what = fuzz_u8(in), *ram = fuzz_mem.regions[0].host;
    uint32_t queue = 0x1000 * (1 + (what & 1)), i = what >> 1 & 7;
    uint64_t at = what & 0x80 ? fuzz_address(in) : 0x4000u + (fuzz_u16(in) & 0x7fffu);
    uint32_t length = fuzz_u16(in);
    uint16_t flags = fuzz_u8(in) & 7, next = fuzz_u8(in) & 15, index;
    memcpy(ram + queue + 16 * i, &at, 8);
    memcpy(ram + queue + 16 * i + 8, &length, 4);
    memcpy(ram + queue + 16 * i + 12, &flags, 2);
    memcpy(ram + queue + 16 * i + 14, &next, 2);
    memcpy(&index, ram + queue + 0x402, 2);
    memcpy(ram + queue + 0x404 + 2 * (index % 8), &i, 2);
    index += !(what & 0x10);
    memcpy(ram + queue + 0x402, &index, 2);
}

static void receive(struct fuzz_in *in)
{
    size_t n;
    uint8_t header[MK_PACKET_HEADER] = { 0 };
    const uint8_t *head = fuzz_bytes(in, sizeof(header), &n);
    memcpy(header, head, n);
    uint32_t length = fuzz_u16(in);
    struct mk_packet *frame = mk_packet_new(length);
    fuzz_check(frame);
    memset(frame->bytes, 0x45, length);
    const uint8_t *bytes = fuzz_bytes(in, 80, &n);
    memcpy(frame->bytes, bytes, n < length ? n : length);
    if (mk_packet_set_header(frame, header))
        mk_net_receive(net, frame, 0);
    mk_packet_unref(frame);
}

static void one(const uint8_t *bytes, size_t length)
{
    struct fuzz_in in = { bytes, length };
    uint8_t shape = fuzz_u8(&in);
    fuzz_mem_reset();
    fuzz_cpu_reset(&cpu);
    start(net, shape);
    start(other, shape >> 4);
    while (in.left) {
        fuzz_steps++;
        uint8_t op = fuzz_u8(&in);
        switch (op & 7) {
        case 0:
        case 1:
        case 2: offer(&in); break;
        case 3: net->virtio.ops->notify(&net->virtio, op >> 3 & 1, &cpu.cpu); break;
        case 4: receive(&in); break;
        case 5: fuzz_poke(&in); break;
        case 6: mk_virtio_read_isr(&net->virtio); break;
        default: cpu.trips = op >> 3;
        }
        fuzz_check(net->waiting <= MK_NET_WAITING);
    }
}

FUZZ_TARGET(net, init, one)
