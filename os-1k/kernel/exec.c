/* exec.c - loads programs and runs them, one at a time.
 *
 * There is one user window, so a new program replaces the old one; nothing needs to be scheduled.
 * The shell starts a program by exec, and when a program ends the kernel loads the shell afresh.
 * When the shell itself ends, so does the system. */
#include "kernel.h"
#include "str.h"

#define SHELL "shell"
#define FAULTED 256 /* a status that no program can exit with */

/* The start of a program's image, made by user/crt0.S and user/user.lds. */
struct image {
    uint32_t magic;
    uint32_t text_size; /* code and constants: whole pages, mapped read-only */
    uint32_t file_size; /* ... and initialised data: what the archive holds */
    uint32_t mem_size;  /* ... and zeros */
    uint32_t entry;
};

char program_name[NAME_MAX];
static char next_name[NAME_MAX];

static bool image_ok(const struct image *image, uint32_t size)
{
    return size >= sizeof *image && image->magic == IMAGE_MAGIC &&
           image->text_size % PAGE_SIZE == 0 && image->text_size <= image->mem_size &&
           image->file_size <= size && image->file_size <= image->mem_size &&
           image->mem_size <= (USER_PAGES - USER_STACK_PAGES - 1) * PAGE_SIZE &&
           image->entry >= USER_BASE && image->entry - USER_BASE < image->text_size;
}

/* Copies through the kernel's window: the program's own view of its code is read-only. Every page
 * that it will see is overwritten, so that nothing is left of the program before. */
static void load(const struct image *image)
{
    uint32_t text = image->text_size / PAGE_SIZE;
    uint32_t all = (image->mem_size + PAGE_SIZE - 1) / PAGE_SIZE;
    char *frames = PHYS_TO_VIRT(USER_FRAMES);

    memcpy(frames, image, image->file_size);
    memset(frames + image->file_size, 0, all * PAGE_SIZE - image->file_size);
    memset(frames + (USER_PAGES - USER_STACK_PAGES) * PAGE_SIZE, 0, USER_STACK_PAGES * PAGE_SIZE);

    user_unmap_all();
    user_map(0, text, false);
    user_map(text, all - text, true);
    user_map(USER_PAGES - USER_STACK_PAGES, USER_STACK_PAGES, true); /* unmapped pages lie below */
    user_map_done();
}

static int run(const char *name)
{
    uint32_t size;
    const struct image *image = archive_find(name, &size);

    if (!image || !image_ok(image, size)) {
        kprintf("cannot run '%s': %s\n", name, image ? "bad image" : "no such program");
        return FAULTED;
    }
    load(image);
    return user_enter(image->entry, USER_TOP);
}

int program_loop(void)
{
    if (!option_value("init", program_name, sizeof program_name))
        str_copy(program_name, SHELL, sizeof program_name);
    for (;;) {
        bool is_shell = str_equal(program_name, SHELL);
        next_name[0] = '\0';
        int status = run(program_name);

        if (is_shell && status == FAULTED)
            panic("no shell");
        if (is_shell && !next_name[0])
            return status;
        str_copy(program_name, next_name[0] ? next_name : SHELL, sizeof program_name);
    }
}

int program_exec(const char *name)
{
    uint32_t size;

    if (!archive_find(name, &size))
        return ERR_NOENT;
    str_copy(next_name, name, sizeof next_name);
    user_leave(0);
}

void program_fault(void)
{
    user_leave(FAULTED);
}
