/* replay.c - the targets with the inputs that are kept (spec/fuzz/corpus, a file for each target:
 * inputs behind their lengths, u32, and
 * all of it packed by gzip), without libFuzzer. Prints TAP. Arguments: names of targets.
 * See fuzz.h. */
#include "fuzz.h"

#include "tap.h"

#include <stdlib.h>
#include <zlib.h>

static bool is_wanted(const char *name, int argc, char **argv)
{
    bool wanted = argc < 2;
    for (int i = 1; i < argc; i++)
        wanted |= strcmp(argv[i], name) == 0;
    return wanted;
}

/* Each in memory of its own, so that a sanitizer sees what lies behind it. */
static unsigned replay(const struct fuzz_target *target, gzFile file)
{
    unsigned inputs = 0;
    uint32_t length;
    while (gzread(file, &length, sizeof(length)) == sizeof(length)) {
        uint8_t *bytes = malloc(length);
        if (length && (!bytes || gzread(file, bytes, length) != (int)length))
            fuzz_failed("the corpus is whole", target->name, (int)inputs);
        target->one(bytes, length);
        free(bytes);
        inputs++;
    }
    return inputs;
}

int main(int argc, char **argv)
{
    for (struct fuzz_target *t = fuzz_targets; t; t = t->next) {
        char path[200];
        if (!is_wanted(t->name, argc, argv))
            continue;
        snprintf(path, sizeof(path), "spec/fuzz/corpus/%s.gz", t->name);
        gzFile file = gzopen(path, "rb");
        if (t->init)
            t->init();
        uint64_t before = fuzz_steps;
        unsigned inputs = file ? replay(t, file) : 0;
        if (file)
            gzclose(file);
        tap_ok(inputs > 0 && fuzz_steps > before, t->name); /* and it did something */
        fflush(stdout);
    }
    return tap_done();
}
