/* pci_irq.c - interrupts of functions: INTx and the router of a PIIX3. A function that is to send
 * messages keeps its line down (PCI 3.0, 6.8.2.1). See pci.h.
 *
 * Intel 82371SB data sheet, PIRQRC[A:D] (PCI function 0, 60h-63h): bit 7 switches a line's routing
 * off, bits 3:0 name the ISA interrupt. Which PIRQ a slot's pin is wired to is the board's: as
 * usual they follow one another from slot to slot. A line is up while any function on it raises it,
 * and is level-triggered, as ELCR says; firmware has set that, and routed them to 10, 11, 5 and 9.
 */
#include "dev/pci.h"

#define ROUTING_OFF 0x80
#define ISA_LINES 0xdef8u /* 3 to 7, 9 to 12, 14, 15 */
#define MSI_ENABLE 0x0001 /* of the capabilities' control */
#define MSIX_ENABLE 0x8000

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

/* --- lines --- */

/* The capability by which the guest wants messages, and its control; 0: none. */
static uint8_t enabled_cap(const struct mk_pci_fn *fn, uint16_t *control)
{
    const struct {
        uint8_t at;
        uint16_t enable;
    } caps[] = { { fn->msix, MSIX_ENABLE }, { fn->msi, MSI_ENABLE } };
    for (unsigned i = 0; i < MK_COUNT(caps); i++) {
        *control = mk_pci_get16(fn->config + caps[i].at + 2);
        if (caps[i].at && *control & caps[i].enable)
            return fn->config[caps[i].at];
    }
    return 0;
}

static bool signals(const struct mk_pci_fn *fn)
{
    uint16_t control;
    return fn->raised && !(mk_pci_get16(fn->config + MK_PCI_COMMAND) & MK_PCI_NO_INTX) &&
           !enabled_cap(fn, &control);
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

uint8_t mk_pci_set_irq(struct mk_pci_fn *fn, bool level, uint16_t *control)
{
    struct mk_pci *pci = fn->pci;
    pthread_mutex_lock(&pci->dev.lock);
    bool changes = fn->attached && fn->raised != level;
    if (changes) {
        fn->raised = level;
        mk_pci_route(pci);
    }
    uint8_t cap = changes && level ? enabled_cap(fn, control) : 0;
    pthread_mutex_unlock(&pci->dev.lock);
    return cap;
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
