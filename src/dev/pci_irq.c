/* pci_irq.c - interrupts of functions: INTx and the router of a PIIX3, or messages (PCI 3.0, 6.8).
 * See pci.h.
 *
 * Intel 82371SB data sheet, PIRQRC[A:D] (PCI function 0, 60h-63h): bit 7 switches a line's routing
 * off, bits 3:0 name the ISA interrupt. Which PIRQ a slot's pin is wired to is the board's: as
 * usual they follow one another from slot to slot. A line is up while any function on it raises it,
 * and is level-triggered, as ELCR says; firmware has set that, and routed them to 10, 11, 5 and 9.
 */
#include "dev/pci.h"

#include <string.h>

#define ROUTING_OFF 0x80
#define ISA_LINES 0xdef8u /* 3 to 7, 9 to 12, 14, 15 */

static const uint8_t firmware[MK_PCI_PIRQS] = { 10, 11, 5, 9 };

static unsigned pirq_of(uint8_t devfn, uint8_t pin)
{
    return ((devfn >> 3) + 2u + pin) % MK_PCI_PIRQS; /* slot 1, INTA#: PIRQA# */
}

/* -1: to nowhere. */
static int line_of(const struct mk_pci *pci, unsigned pirq)
{
    uint8_t route = pci->piix3->config[MK_PCI_PIRQ + pirq];
    bool on = !(route & ROUTING_OFF) && (ISA_LINES >> (route & 15) & 1);
    return on ? route & 15 : -1;
}

/* What a function has firmware write to its interrupt line register. */
uint8_t mk_pci_default_line(uint8_t devfn, uint8_t pin)
{
    return pin ? firmware[pirq_of(devfn, pin)] : 0;
}

/* --- messages ---
 *
 * A message is a write to memory that an APIC takes. There is none yet: messages go to
 * pci->message, which is NULL, are lost and counted, as on a board without one. Guests that have no
 * APIC do not enable them. */

static uint16_t control(const struct mk_pci_fn *fn, uint8_t cap)
{
    return mk_pci_get16(fn->config + cap + 2);
}

static bool has_messages(const struct mk_pci_fn *fn)
{
    return (fn->msi && control(fn, fn->msi) & MK_PCI_MSI_ENABLE) ||
           (fn->msix && control(fn, fn->msix) & MK_PCI_MSIX_ENABLE);
}

static void send(struct mk_pci *pci, const uint8_t *address, const uint8_t *data)
{
    if (pci->message)
        pci->message(pci->message_ctx,
                     mk_pci_get32(address) | (uint64_t)mk_pci_get32(address + 4) << 32,
                     mk_pci_get32(data));
    else
        atomic_fetch_add(&pci->lost, 1);
}

/* The first message of a function. One that is masked is pending. */
static void send_message(struct mk_pci_fn *fn)
{
    if (fn->msix && control(fn, fn->msix) & MK_PCI_MSIX_ENABLE) {
        uint8_t *entry = fn->vectors->bytes;
        if (control(fn, fn->msix) & MK_PCI_MSIX_MASK || entry[12] & MK_PCI_MSIX_MASKED)
            entry[fn->vectors->count * MK_PCI_MSIX_ENTRY] |= 1;
        else
            send(fn->pci, entry, entry + 8);
        return;
    }
    uint8_t data[4] = { 0 };
    memcpy(data, fn->config + fn->msi + 12, 2);
    send(fn->pci, fn->config + fn->msi + 4, data);
}

/* --- lines --- */

static bool signals(const struct mk_pci_fn *fn)
{
    return fn->raised && !(mk_pci_get16(fn->config + MK_PCI_COMMAND) & MK_PCI_NO_INTX) &&
           !has_messages(fn);
}

static uint16_t wanted_lines(const struct mk_pci *pci)
{
    uint16_t lines = 0;
    for (unsigned i = 0; i < MK_PCI_FUNCTIONS; i++) {
        const struct mk_pci_fn *fn = atomic_load(&pci->fn[i]);
        if (!fn || !signals(fn))
            continue;
        int line = line_of(pci, pirq_of(fn->devfn, fn->config[MK_PCI_PIN]));
        lines |= (uint16_t)(line >= 0 ? 1u << line : 0);
    }
    return lines;
}

static void set_lines(struct mk_pci *pci, uint16_t changed)
{
    for (unsigned i = 0; pci->pic && i < 16; i++)
        if (changed >> i & 1)
            mk_pic_set_shared(pci->pic, i, pci->lines >> i & 1);
}

void mk_pci_route(struct mk_pci *pci)
{
    uint16_t before = pci->lines;
    pci->lines = pci->piix3 ? wanted_lines(pci) : 0;
    set_lines(pci, before ^ pci->lines);
}

void mk_pci_route_all(struct mk_pci *pci)
{
    pci->lines = pci->piix3 ? wanted_lines(pci) : 0;
    set_lines(pci, UINT16_MAX);
}

/* As firmware leaves it. */
void mk_pci_init_router(struct mk_pci *pci)
{
    uint16_t level = 0;
    for (unsigned i = 0; i < MK_PCI_PIRQS; i++) {
        pci->piix3->config[MK_PCI_PIRQ + i] = firmware[i];
        level |= (uint16_t)(1u << firmware[i]);
    }
    if (pci->pic)
        mk_pic_set_level_triggered(pci->pic, level);
}

void mk_pci_set_irq(struct mk_pci_fn *fn, bool level)
{
    struct mk_pci *pci = fn->pci;
    pthread_mutex_lock(&pci->dev.lock);
    if (fn->attached && fn->raised != level) {
        fn->raised = level;
        if (level && has_messages(fn))
            send_message(fn);
        mk_pci_route(pci);
    }
    pthread_mutex_unlock(&pci->dev.lock);
}

int mk_pci_irq_line(struct mk_pci_fn *fn)
{
    struct mk_pci *pci = fn->pci;
    pthread_mutex_lock(&pci->dev.lock);
    uint8_t pin = fn->config[MK_PCI_PIN];
    int line = pci->piix3 && pin ? line_of(pci, pirq_of(fn->devfn, pin)) : -1;
    pthread_mutex_unlock(&pci->dev.lock);
    return line;
}
