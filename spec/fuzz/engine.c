/* engine.c - the targets under libFuzzer, all in one program: the name that it is called by says
 * which (`make fuzz-build` makes a link for each). See fuzz.h; https://llvm.org/docs/LibFuzzer.html
 */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static const struct fuzz_target *target;

static void tell(void)
{
    fprintf(stderr, "steps: %llu\n", (unsigned long long)fuzz_steps);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *slash = strrchr((*argv)[0], '/'), *name = slash ? slash + 1 : (*argv)[0];
    (void)argc;
    for (target = fuzz_targets; target && strcmp(target->name, name) != 0;)
        target = target->next;
    if (!target) { /* called by its own name: the list */
        for (target = fuzz_targets; target; target = target->next)
            puts(target->name);
        exit(0);
    }
    atexit(tell);
    if (target->init)
        target->init();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    target->one(bytes, length);
    return 0;
}
