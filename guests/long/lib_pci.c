/* lib_pci.c - a device on the PCI bus: configuration mechanism 1 (PCI Local Bus Specification 3.0,
 * 3.2.2.3.2). */
#include "minikvm.h"

static uint32_t slot; /* for CONFADD */

uint32_t pci_config(uint32_t reg)
{
    outl(MK_PORT_PCI_ADDRESS, slot | reg);
    return inl(MK_PORT_PCI_DATA);
}

static void set_config(uint32_t reg, uint32_t value)
{
    outl(MK_PORT_PCI_ADDRESS, slot | reg);
    outl(MK_PORT_PCI_DATA, value);
}

bool pci_find(uint32_t id, uint32_t bar)
{
    for (slot = 0x80000000; slot < 0x80010000; slot += 0x800)
        if (pci_config(0) == id) {
            set_config(0x10, bar);
            set_config(0x04, 0x6);
            return true;
        }
    return false;
}
